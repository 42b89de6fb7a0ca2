"""What the endpoint answers: our paths, and nothing else, always in JSON but for the front page.

It stands in front of Bento's application rather than behind it: that costs a third of the CPU of a Bento API method,
and what pydantic would let pass for a number never gets that far.
"""

import asyncio
import codecs
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from services.http import docs
from services.http.exchange import JSON, Done, Exchange, Headers, Message, Reply
from services.http.landing_page import page
from services.http.micro_batching import Gathering, Waiting
from services.http.overload import Load, Task
from services.http.refusals import OVERLOAD
from services.http.scheduling import Scheduler
from services.model.model_router import Served
from services.model.predictor import Answer, Predictor
from services.model.traffic_split import Incumbents
from truecourse.errors import PlatformError, RequestError
from truecourse.serving import openapi
from truecourse.serving.request_reader import too_large
from truecourse.settings import get_settings
from truecourse.wording import suggestion

log = logging.getLogger("truecourse.serving")
DOCUMENTS = ("/model", "/openapi.json", "/docs.json", "/")
OURS = {
    "/predict": "POST",
    "/explain": "POST",
    **dict.fromkeys((*DOCUMENTS, *docs.PATHS, "/healthz", "/metrics"), "GET"),
}
HTML: Headers = ((b"content-type", b"text/html; charset=utf-8"),)
FEW = 4
"""Up to so many rows are answered in the event loop, together with those of other requests that wait."""
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

    def __init__(self, served: Served, load: Load) -> None:
        self._served = served
        self._documents = Documents()
        self._gathering = Gathering(served)
        self._scheduler = Scheduler(load, self, served.threads, self._overloaded)

    async def reply(self, exchange: Exchange) -> Reply:
        try:
            return await self._reply(exchange, exchange.path)
        except Exception as error:
            return _instead(exchange.path, error)

    async def _reply(self, exchange: Exchange, path: str) -> Reply:
        method, asked = OURS.get(path), exchange.scope["method"]
        if method is None:
            raise RequestError(f"there is no {path[:80]}", status=404, hint=_known(path))
        if asked != method and not (asked == "HEAD" and method == "GET"):
            raise RequestError(f"{path} takes {method}, not {asked}", status=405)
        if path in docs.PATHS:
            return Reply(200, docs.body(path), docs.headers(path))
        now = self._now()
        if method == "GET":
            return Reply(200, self._documents.get(path, self._served, now.champion), HTML if path == "/" else JSON)
        _check_type(exchange.scope)  # before the body is read
        body = await self._body(exchange, now.champion)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.score(exchange, body, partial(_settle, reply))
        return await reply

    def _now(self) -> Incumbents:
        if self._served.now is None:
            raise PlatformError("the model is still loading")
        return self._served.now

    def score(self, exchange: Exchange, body: bytes, done: Done) -> None:
        """Answer what was sent to /predict or /explain when it is its turn. `done` is called with the reply: later,
        from the event loop."""
        exchange.whole = True
        self._scheduler.put(exchange, body, done)

    def together(self, tasks: list[Task]) -> list[Task]:
        waiting: list[Waiting] = []
        longer: list[Task] = []
        now: Incumbents | None = None
        for task in tasks:
            path = task.exchange.path
            try:
                now = now or self._now()
                sent = _sent(now, task)
            except Exception as error:
                task.done(_instead(path, error))
                continue
            few, trees = len(sent) <= FEW, now.champion.model.trees
            if few and path == "/predict" and now.challenger is None and len(tasks) > 1:
                waiting.append(Waiting(sent, partial(self._gathered, task, len(sent))))
            elif few or (path == "/predict" and len(sent) * trees <= INLINE_WALKS):
                task.done(self._reply_to(now, path, sent))
            else:
                longer.append(task)
        if now is not None and waiting:
            self._gathering.answer(now, waiting)
        return longer

    def alone(self, task: Task) -> Reply:
        try:
            if task.exchange.gone:  # while it waited for the thread
                raise PlatformError("the request was given up")
            now = self._now()
            sent = _sent(now, task)
        except Exception as error:
            return _instead(task.exchange.path, error)
        return self._reply_to(now, task.exchange.path, sent)

    def _reply_to(self, now: Incumbents, path: str, sent: list[Any]) -> Reply:
        served = self._served
        try:
            at = datetime.now(UTC)
            rows = now.champion.rows.accepted(sent, at)
            _taken(served, path, len(rows))
            document, parts = served.answer(now, rows, at, path == "/explain")
            return Reply(200, _encoded(document), JSON, lambda: served.after(now, parts))
        except Exception as error:
            return _instead(path, error)

    def _overloaded(self) -> Reply:
        if self._served.metrics is not None:
            self._served.metrics.turned_away(OVERLOAD.reason)
        return OVERLOAD.reply

    def _gathered(self, task: Task, rows: int, answer: Answer | Exception) -> None:
        path = task.exchange.path
        try:
            if isinstance(answer, Exception):
                raise answer
            _taken(self._served, path, rows)
            reply = Reply(200, _encoded(answer))
        except Exception as error:
            reply = _instead(path, error)
        task.done(reply)

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
        if length > limit:
            raise too_large(predictor.contract)
        return b"".join(kept)


def _sent(now: Incumbents, task: Task) -> list[Any]:
    """The rows of the request. Raises RequestError."""
    _check_type(task.exchange.scope)
    return now.champion.rows.sent(task.body)


def _known(path: str) -> str:
    shown = sorted(set(OURS) - (docs.PATHS - {"/docs"}))
    close = suggestion(path[:80], shown)
    return f"{close} there are {', '.join(shown)}".strip()


def _settle(reply: "asyncio.Future[Reply]", found: Reply) -> None:
    if not reply.done():  # it may have been given up
        reply.set_result(found)


def _instead(path: str, error: Exception) -> Reply:
    """Of an answer, after an error."""
    if isinstance(error, RequestError):
        allowed = ((b"allow", OURS[path].encode()),) if error.status == 405 else ()
        return Reply(error.status, _refusal(error), JSON + allowed)
    if isinstance(error, PlatformError):
        body = _encoded({"error": error.what, "hint": error.hint})
        return Reply(503, body, (*JSON, (b"retry-after", b"1")))
    log.error("%s failed", path, exc_info=error)
    return Reply(500, _encoded({"error": "the server failed; its log says why"}))


def _taken(served: Served, path: str, rows: int) -> None:
    if served.metrics is not None:
        served.metrics.taken(path, rows)


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _check_type(scope: Message) -> None:
    kinds = [value for name, value in scope["headers"] if name in (b"content-type", b"content-encoding")]
    if kinds == [b"application/json"]:  # what nearly everybody sends
        return
    kind, *parameters = _header(scope, b"content-type").lower().split(";")
    named = [parameter.partition("=") for parameter in parameters]
    charsets = [value.strip().strip('"') for name, _, value in named if name.strip() == "charset"]
    coding = _header(scope, b"content-encoding").strip().lower()
    if kind.strip() != "application/json":
        what = f"the content type is {kind.strip() or 'none'}"
    elif not all(map(_is_utf8, charsets)):
        what = f"the charset of the content type is {', '.join(charsets) or 'none'}"
    elif coding not in ("", "identity"):
        what = f"the content encoding is {coding}"
    else:
        return
    hint = "send JSON as UTF-8, with the header content-type: application/json"
    raise RequestError(what[:120], status=415, hint=hint)


def _is_utf8(charset: str) -> bool:
    """ASCII is a part of it."""
    try:
        return codecs.lookup(charset).name in ("utf-8", "ascii")
    except (LookupError, ValueError):
        return False


def _refusal(error: RequestError) -> bytes:
    document: dict[str, Any] = {"error": error.what, "hint": error.hint}
    if error.faults:
        document |= {"faults": [asdict(fault) for fault in error.faults], "fault_count": error.count}
    return _encoded(document)


def _encoded(document: Any) -> bytes:
    return orjson.dumps(document)
