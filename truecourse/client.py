"""A client of the endpoint. It needs nothing but the standard library; one may be shared by threads.

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
"""Refusals to try again after: the endpoint is overloaded, or something it stands on is away."""
_UNSENDABLE = (TypeError, ValueError, RecursionError)


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
    """`id`: as it was sent. `score`: the probability of the second class, or the value of a regression. `scores`: by
    class, of a multiclass model. `missing`, `unknown`: features without a value, and with a category never seen in
    training. `unavailable`: feature views that could not be read. `warning`: why most features are missing. `model`:
    who answered this row, where it was not the answer's. `base`, `margin`, `contributions`: of explain() alone."""

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
    """timeout: seconds for one answer. tries: how often a request is sent that finds the endpoint busy; between two
    it waits as long as the endpoint says. certificate: a PEM file to trust beside the system's. pin: a PEM file whose
    first certificate the endpoint has to show, whatever host it names."""

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
        """Raises RequestError for rows that break the contract or a key that does not hold, PlatformError if the
        endpoint does not answer."""
        return self._typed(self.post("predict", *rows))

    def explain(self, *rows: Row) -> Answer:
        """predict(), with the contributions that add up to each margin."""
        return self._typed(self.post("explain", *rows))

    def post(self, path: str, *rows: Row) -> dict[str, Any]:
        """The JSON that the endpoint answers with. Raises as predict() does."""
        return self._ask(path, encode(rows))

    def about(self) -> dict[str, Any]:
        """What the endpoint says of the model it serves. Raises as predict() does."""
        return self._ask("model", None)

    def _typed(self, document: dict[str, Any]) -> Answer:
        try:
            return Answer.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"the answer is of another form: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise PlatformError(what, where=self._url, hint="use the client of the endpoint's version") from None

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        for left in range(self._tries - 1, -1, -1):
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or not left:
                    raise _refused(error.code, error.read(), self._url) from None
                time.sleep(_pause(error.headers.get("retry-after")))
            except (OSError, ValueError, http.client.HTTPException) as error:
                what = f"the endpoint does not answer: {getattr(error, 'reason', error)}"
                raise PlatformError(what, where=self._url, hint="truecourse serve") from None
        raise AssertionError("a client tries once at least")

    def _once(self, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/{path}", body, self._headers)  # noqa: S310
        with self._open(request) as answer:
            document: dict[str, Any] = json.load(answer)
            return document

    def _open(self, request: urllib.request.Request) -> Any:
        if self._pinned is not None:
            return self._pinned.open(request, timeout=self._timeout)
        return open_url(request, self._timeout, self._trust)


def encode(rows: Sequence[Row]) -> bytes:
    """The body of a request. Times may be datetimes, numbers and texts NumPy's. Raises RequestError (422), by row and
    field, for values that JSON does not have."""
    whole: list[Any] = []
    faults: list[RowFault] = []
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            faults.append(RowFault(place, None, f"is {type(row).__name__}, not a mapping of fields to values"))
            continue
        try:
            whole.append(_json({_name(name): _plain(value) for name, value in row.items()}))
        except _UNSENDABLE:
            faults += _faults(place, row)
    if faults:
        first, hint = faults[0], "send text, numbers, true, false, null or times; null for what is missing"
        what = f"row {first.row}{f', field {first.field}' if first.field else ''}: {first.problem}"
        raise RequestError(what, status=422, faults=tuple(faults), count=len(faults), hint=hint)
    return f'{{"rows": [{", ".join(whole)}]}}'.encode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _faults(place: int, row: Row) -> list[RowFault]:
    faults = []
    for name, value in row.items():
        try:
            _json({_name(name): _plain(value)})
        except _UNSENDABLE as error:
            faults.append(RowFault(place, str(name), f"cannot be sent: {error}"))
    return faults


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a field is text, not {type(name).__name__}")
    return name


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, date):  # datetimes are dates
        return value.isoformat()
    item = getattr(value, "item", None)  # a scalar of NumPy
    return item() if callable(item) else value


def _pause(told: str | None) -> float:
    """Seconds to wait, as the endpoint told; one where it told a date, or nothing."""
    try:
        return max(0.0, float(told or 1))
    except ValueError:
        return 1.0


def _refused(status: int, body: bytes, where: str) -> RequestError | PlatformError:
    try:
        said = json.loads(body)
    except ValueError:
        said = {"error": body[:200].decode(errors="replace")}
    what, hint = str(said.get("error")), said.get("hint") or said.get("cure") or ""  # "cure": of an older endpoint
    if status >= 500:
        return PlatformError(what, where=where, hint=hint)
    if status in (401, 403):
        hint = "show a key with its scope: TRUECOURSE_API_KEY, or Client(key=...)"
    faults = tuple(RowFault(**fault) for fault in said.get("faults", ()))
    return RequestError(what, status=status, faults=faults, count=said.get("fault_count", 0), where=where, hint=hint)
