"""The endpoint as ASGI: our paths answered here, Bento's own passed on, everything else refused, always in JSON.

It stands in front of Bento's application rather than behind it: that costs a third of the CPU of a Bento API method,
and what pydantic would let pass for a number never gets that far.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from services.gathering import Gathering
from services.limits import Turns
from services.page import page
from services.prediction import Predictor
from services.served import Served, Told
from truecourse import openapi
from truecourse.errors import PlatformError, RequestError
from truecourse.request import too_large
from truecourse.settings import get_settings

log = logging.getLogger("truecourse.serving")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
After = Callable[[], None]
App = Callable[[Message, Receive, Send], Awaitable[None]]

DOCUMENTS = ("/model", "/openapi.json", "/docs.json", "/")
OURS = {"/predict": "POST", "/explain": "POST", **dict.fromkeys(DOCUMENTS, "GET")}
BENTOS = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})
FEW = 4
"""Up to so many rows are answered in the event loop, together with those of other requests that came at that time."""
INLINE_WALKS = 40_000
"""And more, as long as no more trees are walked for them: that takes two milliseconds. What takes longer would keep
health checks waiting, and goes to a thread, which costs a tenth more CPU time."""
DRAINED = 32 << 20
"""So much of a body that is too long is read and dropped, for the client to come to read the refusal."""


class Documents:
    """What GET answers of the champion in office, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: tuple[Predictor, dict[str, bytes]] | None = None

    def get(self, path: str, served: Served, predictor: Predictor) -> bytes:
        if path == "/model":
            about = {name: value for name, value in predictor.about.items() if name != "files"}
            return _encoded(about | {"serving": served.status()})
        if self._made is None or self._made[0] is not predictor:
            self._made = (predictor, _documents(predictor))
        return self._made[1][path]


def _documents(predictor: Predictor) -> dict[str, bytes]:
    settings = get_settings()
    document = _encoded(openapi.document(predictor.contract, str(predictor.about["version"])))
    address = f"{settings.host}:{settings.endpoint_port}"
    front = page(predictor.contract, predictor.about, address).encode()
    return {"/openapi.json": document, "/docs.json": document, "/": front}


class Endpoint:
    """An ASGI middleware for Bento's application."""

    def __init__(self, app: App, served: Served, turns: Turns) -> None:
        self._app = app
        self._served, self._turns = served, turns
        self._documents = Documents()
        self._gathering = Gathering(served, turns, INLINE_WALKS)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in BENTOS:
            await self._app(scope, receive, send)
            return
        after: After | None = None
        headers = [(b"content-type", b"text/html; charset=utf-8" if path == "/" else b"application/json")]
        try:
            status = 200
            body, after = await self._respond(scope, receive, path)
        except RequestError as error:
            status, body = error.status, _refusal(error)
            if status == 405:
                headers.append((b"allow", OURS[path].encode()))
        except PlatformError as error:
            status, body = 503, _encoded({"error": error.what, "cure": error.cure})
            headers.append((b"retry-after", b"1"))
        except Exception:
            log.exception("%s failed", path)
            status, body = 500, _encoded({"error": "the server failed; its log says why"})
        await _send(send, status, body, headers, scope["method"] == "HEAD")
        if after is not None:
            after()

    async def _respond(self, scope: Message, receive: Receive, path: str) -> tuple[bytes, "After | None"]:
        """The body, and what is to be done once it is sent."""
        method = OURS.get(path)
        if method is None:
            raise RequestError(f"there is no {path[:80]}", status=404, cure=f"there are {', '.join(sorted(OURS))}")
        if scope["method"] != method and not (scope["method"] == "HEAD" and method == "GET"):
            raise RequestError(f"{path} takes {method}, not {scope['method']}", status=405)
        served, now = self._served, self._served.now
        if now is None:
            raise PlatformError("the model is still loading")
        if method == "GET":
            return self._documents.get(path, served, now.champion), None
        _check_type(scope)
        reader, sent = now.champion.rows, now.champion.rows.sent(await _body(scope, receive, now.champion))
        few = len(sent) <= FEW
        if few and path == "/predict" and self._gathering.wants(now):
            document = await self._gathering.answer(now, sent)
            _taken(served, path, len(sent))
            return _encoded(document), None
        at = datetime.now(UTC)
        rows = reader.accepted(sent, at)
        _taken(served, path, len(rows))

        def answer() -> tuple[bytes, list[Told]]:
            document, parts = served.answer(now, rows, at, path == "/explain")
            return _encoded(document), parts

        began = self._turns.shedder.clock()
        try:
            if few or (path == "/predict" and len(rows) * now.champion.model.trees <= INLINE_WALKS):
                encoded, parts = answer()
            else:
                encoded, parts = await asyncio.get_running_loop().run_in_executor(served.threads, answer)
        finally:
            self._turns.shedder.worked(began)
        return encoded, lambda: served.after(now, parts)


def _taken(served: Served, path: str, rows: int) -> None:
    if served.metrics is not None:
        served.metrics.taken(path, rows)


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _check_type(scope: Message) -> None:
    kinds = [value for name, value in scope["headers"] if name in (b"content-type", b"content-encoding")]
    if kinds == [b"application/json"]:  # what nearly everybody sends
        return
    kind, _, parameters = _header(scope, b"content-type").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    coding = _header(scope, b"content-encoding").lower()
    if kind.strip() != "application/json" or charset not in ("", "utf-8") or coding not in ("", "identity"):
        got = f"{kind.strip() or 'none'}{f' ({coding})' if coding else ''}"
        cure = "send JSON as UTF-8, with the header content-type: application/json"
        raise RequestError(f"the content type is {got[:80]}", status=415, cure=cure)


async def _body(scope: Message, receive: Receive, predictor: Predictor) -> bytes:
    limit, kept, length, more = predictor.contract.max_bytes, [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client went away", status=400)
        length += len(message.get("body", b""))
        if length <= limit:
            kept.append(message.get("body", b""))
        elif length > DRAINED:
            break
        more = message.get("more_body", False)
    if length > limit:
        raise too_large(predictor.contract)
    return b"".join(kept)


def _refusal(error: RequestError) -> bytes:
    document: dict[str, Any] = {"error": error.what, "cure": error.cure}
    if error.faults:
        document |= {"faults": [asdict(fault) for fault in error.faults], "fault_count": error.count}
    return _encoded(document)


def _encoded(document: Any) -> bytes:
    return orjson.dumps(document)


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]], bare: bool) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if bare else body})
