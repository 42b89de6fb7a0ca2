"""A client of the endpoint. It needs nothing but the standard library; one may be shared by threads.

from truecourse.client import Client

client = Client("http://127.0.0.1:3000", key="tc_...")
answer = client.predict({"origin": "JFK", ...})
answer.predictions[0].score
"""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from truecourse.errors import PlatformError, RequestError, RowFault

Row = Mapping[str, Any]
BUSY = {429, 503}
"""Refusals to try again after: the endpoint is overloaded, or something it stands on is away."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Model(Part):
    version: int
    sha256: str


class Contribution(Part):
    """What one feature added to the margin, and the value it had."""

    feature: str
    value: str | float | int | bool | None
    contribution: float


class Prediction(Part):
    """`score`: the probability of the second class, or the value of a regression. `scores`: by class, of a multiclass
    model. `missing`, `unknown`: features without a value, and with a category never seen in training. `unavailable`:
    feature views that could not be read. `warning`: why most features are missing. `model`: who answered this row,
    where it was not the answer's. `base`, `margin`, `contributions`: of explain() alone."""

    prediction_id: str
    id: str | None = None
    decision_time: str | None = None
    score: float | None = None
    scores: dict[str, float] = Field({})
    prediction: str | float
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    warning: str = ""
    model: Model | None = None
    base: float | None = None
    margin: float | None = None
    contributions: tuple[Contribution, ...] = ()


class Answer(Part):
    """Predictions in the order of the rows."""

    model: Model
    predictions: tuple[Prediction, ...]


class Client:
    """timeout: seconds for one answer. tries: how often a request is sent that finds the endpoint busy; between two
    it waits as long as the endpoint says. certificate: a PEM file to trust beside the system's."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        key: str = "",
        timeout: float = 30,
        tries: int = 3,
        certificate: str = "",
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._timeout = timeout
        self._tries = tries
        self._trust = None
        if self._url.startswith("https://"):
            self._trust = ssl.create_default_context()
            if certificate:
                self._trust.load_verify_locations(certificate)

    def predict(self, *rows: Row) -> Answer:
        """Raises RequestError for rows that break the contract or a key that does not hold, PlatformError if the
        endpoint does not answer."""
        return Answer.model_validate(self.post("predict", *rows))

    def explain(self, *rows: Row) -> Answer:
        """predict(), with the contributions that add up to each margin."""
        return Answer.model_validate(self.post("explain", *rows))

    def post(self, path: str, *rows: Row) -> dict[str, Any]:
        """The JSON that the endpoint answers with."""
        return self._ask(path, json.dumps({"rows": rows}).encode())

    def about(self) -> dict[str, Any]:
        """What the endpoint says of the model it serves. Raises as predict() does."""
        return self._ask("model", None)

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        for left in range(self._tries - 1, -1, -1):
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or not left:
                    raise _refused(error.code, error.read(), self._url) from None
                time.sleep(float(error.headers.get("retry-after") or 1))
            except (OSError, ValueError) as error:
                what = f"the endpoint does not answer: {getattr(error, 'reason', error)}"
                raise PlatformError(what, where=self._url, cure="truecourse serve") from None
        raise AssertionError("a client tries once at least")

    def _once(self, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/{path}", body, self._headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=self._timeout, context=self._trust) as answer:  # noqa: S310
            document: dict[str, Any] = json.load(answer)
            return document


def _refused(status: int, body: bytes, where: str) -> RequestError | PlatformError:
    try:
        said = json.loads(body)
    except ValueError:
        said = {"error": body[:200].decode(errors="replace")}
    what, cure = str(said.get("error")), said.get("cure") or ""
    if status >= 500:
        return PlatformError(what, where=where, cure=cure)
    if status in (401, 403):
        cure = "show a key with its scope: TRUECOURSE_API_KEY, or Client(key=...)"
    faults = tuple(RowFault(**fault) for fault in said.get("faults", ()))
    return RequestError(what, status=status, faults=faults, count=said.get("fault_count", 0), where=where, cure=cure)
