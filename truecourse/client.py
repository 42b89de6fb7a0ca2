"""A client of the prediction endpoint. It uses only the standard library for HTTP, and is thread-safe.

from truecourse.client import Client

client = Client("http://127.0.0.1:3000", key="tc_...")
answer = client.predict({"origin": "JFK", ...})
answer.predictions[0].score
"""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from truecourse.addresses import open_url
from truecourse.errors import PlatformError, RequestError, RowFault
from truecourse.tls import pinned_opener

Row = Mapping[str, Any]
BUSY = {429, 503}
"""Status codes to retry: the endpoint is overloaded, or a service that it depends on is unavailable."""
_UNSENDABLE = (TypeError, ValueError, RecursionError)


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Model(Part):
    version: int
    sha256: str


class Contribution(Part):
    """A feature's SHAP contribution to the margin, and the feature's value."""

    feature: str
    value: str | float | int | bool | None
    contribution: float


class Prediction(Part):
    """One row's prediction.

    `id`: as sent. `score`: the probability of the second class, or the value of a regression. `scores`: by class, for a
    multiclass model. `missing`, `unknown`: features without a value, and features with a category unseen in training.
    `unavailable`: feature views that could not be read. `warning`: why most features are missing. `model`: the model of
    this row if it differs from the answer's. `base`, `margin`, `contributions`: set by explain() only."""

    prediction_id: str
    id: int | str | None = None
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
    """HTTP client of one endpoint.

    timeout: seconds for one response. tries: attempts while the endpoint is busy; the wait between two is the
    endpoint's `retry-after`. certificate: a PEM file to trust in addition to the system's. pin: a PEM file whose first
    certificate the endpoint must present, whatever host it names."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        key: str = "",
        timeout: float = 30,
        tries: int = 3,
        certificate: str = "",
        pin: str = "",
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
        self._pinned = pinned_opener(pin) if pin else None

    def predict(self, *rows: Row) -> Answer:
        """Predict each row. Raises RequestError for rows that violate the contract and for an invalid key,
        PlatformError if the endpoint does not answer."""
        return self._parse(self.post("predict", *rows))

    def explain(self, *rows: Row) -> Answer:
        """Predict each row, with SHAP contributions that sum to its margin. Raises as predict() does."""
        return self._parse(self.post("explain", *rows))

    def post(self, path: str, *rows: Row) -> dict[str, Any]:
        """The endpoint's JSON response to the rows. Raises as predict() does."""
        return self._request(path, encode(rows))

    def about(self) -> dict[str, Any]:
        """The endpoint's description of the model that it serves. Raises as predict() does."""
        return self._request("model", None)

    def _parse(self, document: dict[str, Any]) -> Answer:
        try:
            return Answer.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"unexpected response: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise PlatformError(
                what, where=self._url, hint="use the client of the same version as the endpoint"
            ) from None

    def _request(self, path: str, body: bytes | None) -> dict[str, Any]:
        for left in range(self._tries - 1, -1, -1):
            try:
                return self._send(path, body)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or not left:
                    raise _error_of(error.code, error.read(), self._url) from None
                time.sleep(_pause(error.headers.get("retry-after")))
            except (OSError, ValueError, http.client.HTTPException) as error:
                what = f"the endpoint does not answer: {getattr(error, 'reason', error)}"
                raise PlatformError(what, where=self._url, hint="truecourse serve") from None
        raise AssertionError("`tries` must be at least 1")

    def _send(self, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/{path}", body, self._headers)  # noqa: S310
        with self._open(request) as response:
            document: dict[str, Any] = json.load(response)
            return document

    def _open(self, request: urllib.request.Request) -> Any:
        if self._pinned is not None:
            return self._pinned.open(request, timeout=self._timeout)
        return open_url(request, self._timeout, self._trust)


def encode(rows: Sequence[Row]) -> bytes:
    """Encode rows as a request body. Values may be datetimes and NumPy scalars. Raises RequestError (422), by row and
    field, for values that JSON cannot represent."""
    encoded: list[str] = []
    faults: list[RowFault] = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            faults.append(RowFault(number, None, f"is {type(row).__name__}, not a mapping of fields to values"))
            continue
        try:
            encoded.append(_json({_name(name): _plain(value) for name, value in row.items()}))
        except _UNSENDABLE:
            faults += _faults(number, row)
    if faults:
        first, hint = faults[0], "send text, numbers, true, false, null or times; null for what is missing"
        what = f"row {first.row}{f', field {first.field}' if first.field else ''}: {first.problem}"
        raise RequestError(what, status=422, faults=tuple(faults), count=len(faults), hint=hint)
    return f'{{"rows": [{", ".join(encoded)}]}}'.encode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _faults(number: int, row: Row) -> list[RowFault]:
    faults = []
    for name, value in row.items():
        try:
            _json({_name(name): _plain(value)})
        except _UNSENDABLE as error:
            faults.append(RowFault(number, str(name), f"cannot be sent: {error}"))
    return faults


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a field name must be text, not {type(name).__name__}")
    return name


def _plain(value: Any) -> Any:
    """Convert a value to one that JSON can represent."""
    if isinstance(value, date):  # datetimes are dates
        return value.isoformat()
    item = getattr(value, "item", None)  # a NumPy scalar
    return item() if callable(item) else value


def _pause(retry_after: str | None) -> float:
    """Seconds to wait, from the `retry-after` header; 1 if it is absent or a date."""
    try:
        return max(0.0, float(retry_after or 1))
    except ValueError:
        return 1.0


def _error_of(status: int, body: bytes, where: str) -> RequestError | PlatformError:
    try:
        document = json.loads(body)
    except ValueError:
        document = {"error": body[:200].decode(errors="replace")}
    what, hint = (
        str(document.get("error")),
        document.get("hint") or document.get("cure") or "",
    )  # "cure": older endpoints
    if status >= 500:
        return PlatformError(what, where=where, hint=hint)
    if status in (401, 403):
        hint = "send a key with the required scope: TRUECOURSE_API_KEY, or Client(key=...)"
    faults = tuple(RowFault(**fault) for fault in document.get("faults", ()))
    return RequestError(
        what, status=status, faults=faults, count=document.get("fault_count", 0), where=where, hint=hint
    )
