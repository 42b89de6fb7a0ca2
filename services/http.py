"""What the endpoint answers: our paths, and nothing else, always in JSON but for the front page.

It stands in front of Bento's application rather than behind it: that costs a third of the CPU of a Bento API method,
and what pydantic would let pass for a number never gets that far.
"""

import asyncio
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from services.exchange import JSON, Exchange, Headers, Message, Reply
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
DOCUMENTS = ("/model", "/openapi.json", "/docs.json", "/")
OURS = {"/predict": "POST", "/explain": "POST", **dict.fromkeys((*DOCUMENTS, "/healthz", "/metrics"), "GET")}
HTML: Headers = ((b"content-type", b"text/html; charset=utf-8"),)
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
    """Answers the exchanges that were let in."""

    def __init__(self, served: Served, turns: Turns) -> None:
        self._served, self._turns = served, turns
        self._documents = Documents()
        self._gathering = Gathering(served, turns, INLINE_WALKS)

    async def reply(self, exchange: Exchange) -> Reply:
        path = exchange.path
        try:
            return await self._reply(exchange, path)
        except RequestError as error:
            allowed = ((b"allow", OURS[path].encode()),) if error.status == 405 else ()
            return Reply(error.status, _refusal(error), JSON + allowed)
        except PlatformError as error:
            body = _encoded({"error": error.what, "cure": error.cure})
            return Reply(503, body, (*JSON, (b"retry-after", b"1")))
        except Exception:
            log.exception("%s failed", path)
            return Reply(500, _encoded({"error": "the server failed; its log says why"}))

    async def _reply(self, exchange: Exchange, path: str) -> Reply:
        method, asked = OURS.get(path), exchange.scope["method"]
        if method is None:
            raise RequestError(f"there is no {path[:80]}", status=404, cure=f"there are {', '.join(sorted(OURS))}")
        if asked != method and not (asked == "HEAD" and method == "GET"):
            raise RequestError(f"{path} takes {method}, not {asked}", status=405)
        served, now = self._served, self._served.now
        if now is None:
            raise PlatformError("the model is still loading")
        if method == "GET":
            return Reply(200, self._documents.get(path, served, now.champion), HTML if path == "/" else JSON)
        _check_type(exchange.scope)
        reader = now.champion.rows
        sent = reader.sent(await self._body(exchange, now.champion))
        few = len(sent) <= FEW
        if few and path == "/predict" and self._gathering.wants(now):
            document = await self._gathering.answer(now, sent)
            _taken(served, path, len(sent))
            return Reply(200, _encoded(document))
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
        return Reply(200, encoded, JSON, lambda: served.after(now, parts))

    async def _body(self, exchange: Exchange, predictor: Predictor) -> bytes:
        limit, kept, length, more = predictor.contract.max_bytes, [], 0, True
        while more:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the client went away", status=400)
            part = message.get("body", b"")
            length += len(part)
            if length <= limit:
                kept.append(part)
            elif length > DRAINED:
                break
            more = message.get("more_body", False)
        else:
            exchange.came_in()
        if length > limit:
            raise too_large(predictor.contract)
        return b"".join(kept)


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


def _refusal(error: RequestError) -> bytes:
    document: dict[str, Any] = {"error": error.what, "cure": error.cure}
    if error.faults:
        document |= {"faults": [asdict(fault) for fault in error.faults], "fault_count": error.count}
    return _encoded(document)


def _encoded(document: Any) -> bytes:
    return orjson.dumps(document)
