"""Client and AsyncClient. Both share truecourse/client/calls.py, and differ only in how they wait."""

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx

from truecourse.client.calls import BUSY, Call, Options, Reply, decode, parse, parse_health, push_path
from truecourse.client.rows import Row, encode
from truecourse.errors import PlatformError
from truecourse.responses import ExplanationResponse, HealthResponse, ModelResponse, PredictionResponse, PushResponse

if TYPE_CHECKING:
    import pandas as pd

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
_BUSY_HEALTH = BUSY - {503}


class _BaseClient(Generic[Http]):
    """The options of both clients. `_kind`: the client of httpx."""

    _kind: type[Http]

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        key: str = "",
        timeout: float = 30,
        tries: int = 3,
        certificate: str = "",
        pin: str = "",
        *,
        connect_timeout: float = 5,
        total_timeout: float | None = None,
        connections: int = 100,
        idle_seconds: float = 60,
    ) -> None:
        self._url = url.rstrip("/")
        self._options = Options(
            self._url, key, timeout, tries, certificate, pin, connect_timeout, total_timeout, connections, idle_seconds
        )
        try:
            self._http: Http = self._kind(**self._options.for_httpx())
        except (httpx.InvalidURL, ValueError, ImportError) as error:  # of the URL, or of a proxy of the environment
            raise PlatformError(f"the endpoint cannot be reached: {error}", where=self._url) from None


class Client(_BaseClient[httpx.Client]):
    """A client of one endpoint, with one pool of connections. Thread-safe. Use it in a `with` statement, or close it.

    url: of the endpoint. key: an API key. timeout: seconds of one wait for data of the endpoint. tries: attempts while
    the endpoint is busy (429, 503) or cannot be connected to, or the connection is lost before a response; 1 for no
    retries. certificate: a PEM file to trust in addition to the system's. pin: a PEM file whose first certificate the
    endpoint must present, whatever host it names. connect_timeout: seconds of connecting. total_timeout: seconds of a
    call with all attempts and the waits between them; by default twice `timeout`. connections: the most that are open
    at once; further calls wait. idle_seconds: how long an unused connection is kept, less than the endpoint's
    `TRUECOURSE_KEEP_ALIVE`.

    Raises SettingsError for invalid options, and for a file without certificates."""

    _kind = httpx.Client

    def predict(self, *rows: "Row | pd.DataFrame", idempotency_key: str | None = None) -> PredictionResponse:
        """Predict each row, and each row of a frame. Raises RequestError for rows that violate the contract and for an
        invalid API key, PlatformError if the endpoint does not answer.

        idempotency_key: of this call, if your code may repeat it; a repeated call with the same rows counts once. By
        default a new one, for the attempts of the client itself. Raises SettingsError for an invalid one."""
        call = Call(self._options, "predict", encode(rows), idempotency_key=idempotency_key)
        return parse(self._call(call), PredictionResponse, self._url)

    def explain(self, *rows: "Row | pd.DataFrame", idempotency_key: str | None = None) -> ExplanationResponse:
        """Predict each row, with SHAP contributions that sum to its margin. Raises as predict() does."""
        call = Call(self._options, "explain", encode(rows), idempotency_key=idempotency_key)
        return parse(self._call(call), ExplanationResponse, self._url)

    def post(self, path: str, *rows: "Row | pd.DataFrame") -> dict[str, Any]:
        """The endpoint's JSON response to the rows. Raises as predict() does."""
        return decode(self._call(Call(self._options, path, encode(rows))), self._url)

    def push(self, area: str, view: str, *rows: "Row | pd.DataFrame", id: str = "", table: str = "") -> PushResponse:
        """Push rows of a view's table. They are stored, and counted once: a retried push too.

        id: the push's; by default the SHA-256 of its rows. table: of a view that reads several. Raises as predict()
        does; RequestError with status 409 for an id that was used for other rows."""
        path = push_path(area, view, id, table)
        call = Call(self._options, path, encode(rows), has_key=False)
        return parse(self._call(call), PushResponse, self._url)

    def about(self) -> ModelResponse:
        """The model that the endpoint serves, and its traffic split. Raises as predict() does."""
        return parse(self._call(Call(self._options, "model", None)), ModelResponse, self._url)

    def health(self) -> HealthResponse:
        """The health of the endpoint's worker that answers, also if it is failing. Raises as predict() does."""
        return parse_health(self._call(Call(self._options, "healthz", None, _BUSY_HEALTH)), self._url)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call) -> Reply:
        while True:
            try:
                reply = self._send(call)
            except httpx.RequestError as error:
                time.sleep(call.wait_after_failure(error))
                continue
            wait = call.wait_after(reply)
            if wait is None:
                return reply
            time.sleep(wait)

    def _send(self, call: Call) -> Reply:
        call.is_answered = False
        with self._http.stream(
            call.method, call.path, content=call.body, timeout=call.timeouts(), headers=call.headers
        ) as response:
            call.is_answered, parts = True, []
            for part in response.iter_bytes():
                parts.append(part)
                call.require_time()
            return Reply(response.status_code, response.headers, b"".join(parts))


class AsyncClient(_BaseClient[httpx.AsyncClient]):
    """The asynchronous Client, with the same options, for asyncio. Tasks of one event loop share its connections. Use
    it in an `async with` statement, or close it with aclose()."""

    _kind = httpx.AsyncClient

    async def predict(self, *rows: "Row | pd.DataFrame", idempotency_key: str | None = None) -> PredictionResponse:
        """Predict each row, and each row of a frame. Raises as Client.predict() does."""
        call = Call(self._options, "predict", encode(rows), idempotency_key=idempotency_key)
        return parse(await self._call(call), PredictionResponse, self._url)

    async def explain(self, *rows: "Row | pd.DataFrame", idempotency_key: str | None = None) -> ExplanationResponse:
        """Predict each row, with SHAP contributions that sum to its margin. Raises as predict() does."""
        call = Call(self._options, "explain", encode(rows), idempotency_key=idempotency_key)
        return parse(await self._call(call), ExplanationResponse, self._url)

    async def post(self, path: str, *rows: "Row | pd.DataFrame") -> dict[str, Any]:
        """The endpoint's JSON response to the rows. Raises as predict() does."""
        return decode(await self._call(Call(self._options, path, encode(rows))), self._url)

    async def push(
        self, area: str, view: str, *rows: "Row | pd.DataFrame", id: str = "", table: str = ""
    ) -> PushResponse:
        """Push rows of a view's table, as Client.push() does."""
        path = push_path(area, view, id, table)
        call = Call(self._options, path, encode(rows), has_key=False)
        return parse(await self._call(call), PushResponse, self._url)

    async def about(self) -> ModelResponse:
        """The model that the endpoint serves, and its traffic split. Raises as predict() does."""
        return parse(await self._call(Call(self._options, "model", None)), ModelResponse, self._url)

    async def health(self) -> HealthResponse:
        """The health of the endpoint's worker that answers, also if it is failing. Raises as predict() does."""
        return parse_health(await self._call(Call(self._options, "healthz", None, _BUSY_HEALTH)), self._url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, call: Call) -> Reply:
        while True:
            try:
                reply = await self._send(call)
            except httpx.RequestError as error:
                await asyncio.sleep(call.wait_after_failure(error))
                continue
            wait = call.wait_after(reply)
            if wait is None:
                return reply
            await asyncio.sleep(wait)

    async def _send(self, call: Call) -> Reply:
        call.is_answered = False
        try:
            async with (
                asyncio.timeout(call.seconds_left),
                self._http.stream(
                    call.method, call.path, content=call.body, timeout=call.timeouts(), headers=call.headers
                ) as response,
            ):
                call.is_answered = True
                return Reply(response.status_code, response.headers, await response.aread())
        except TimeoutError:
            raise call.timeout_error() from None
