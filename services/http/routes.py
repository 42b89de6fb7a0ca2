"""The routes of the endpoint. Replies are JSON, except the front page.

They precede BentoML's application: they take a third of the CPU time of a BentoML API method, and pydantic would accept
values as numbers that the contract refuses.
"""

import asyncio
import codecs
import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import orjson

from services.http import swagger_ui
from services.http.exchange import FEATURES, JSON, Done, Exchange, Headers, Message, Reply
from services.http.idempotency import Call, RecentCalls, push_id
from services.http.landing_page import page
from services.http.load_shedding import Load, Task
from services.http.micro_batching import MicroBatcher, PendingRequest
from services.http.refusals import OVERLOAD
from services.http.scheduling import Scheduler
from services.model.model_router import ModelRouter
from services.model.predictor import Answer, Predictor
from services.model.traffic_split import TrafficSplit
from services.push.connection import FeatureWriter
from truecourse.errors import PlatformError, RequestError
from truecourse.responses import ErrorResponse
from truecourse.serving import openapi
from truecourse.serving.request_reader import too_large
from truecourse.settings import get_settings
from truecourse.wording import suggestion

log = logging.getLogger("truecourse.serving")
DOCUMENTS = ("/model", "/openapi.json", "/docs.json", "/")
METHODS = {
    "/predict": "POST",
    "/explain": "POST",
    FEATURES: "POST",
    **dict.fromkeys((*DOCUMENTS, *swagger_ui.PATHS, "/healthz", "/metrics"), "GET"),
}
HTML: Headers = ((b"content-type", b"text/html; charset=utf-8"),)
RETRY: Headers = (*JSON, (b"retry-after", b"1"))
FEW = 4
"""Requests of up to so many rows are answered in the event loop, together with others that wait."""
INLINE_WALKS = 40_000
"""Larger requests are too, up to so many tree walks (rows times trees), which take two milliseconds. Longer ones would
delay health checks, and go to a thread, which costs a tenth more CPU time."""
DRAINED = 32 << 20
"""Bytes of a too long body that are read and dropped, so that the client reads the refusal."""


class Documents:
    """Documents about the champion, cached until the champion changes."""

    def __init__(self) -> None:
        self._cached: tuple[Predictor, dict[str, bytes]] | None = None

    def get(self, path: str, router: ModelRouter, predictor: Predictor) -> bytes:
        if path == "/model":
            about = {name: value for name, value in predictor.about.items() if name != "files"}
            return _encode(about | {"serving": router.status()})
        if self._cached is None or self._cached[0] is not predictor:
            self._cached = (predictor, _documents(predictor))
        return self._cached[1][path]


def _documents(predictor: Predictor) -> dict[str, bytes]:
    settings = get_settings()
    document = _encode(openapi.document(predictor.contract, str(predictor.about["version"])))
    address = f"{settings.host}:{settings.endpoint_port}"
    front = page(predictor.contract, predictor.about, address).encode()
    return {"/openapi.json": document, "/docs.json": document, "/": front}


class Endpoint:
    """Answers exchanges that the guard has accepted."""

    def __init__(self, router: ModelRouter, load: Load, writer: FeatureWriter | None = None) -> None:
        self._router = router
        self._writer = writer
        self._documents = Documents()
        self._batcher = MicroBatcher(router)
        self._calls = RecentCalls()
        self._scheduler = Scheduler(load, self, router.threads, self._overloaded)

    async def reply(self, exchange: Exchange) -> Reply:
        try:
            return await self._reply(exchange, exchange.path)
        except Exception as error:
            return _error_reply(exchange.path, error)

    async def _reply(self, exchange: Exchange, path: str) -> Reply:
        method, requested = METHODS.get(path), exchange.scope["method"]
        if method is None:
            raise RequestError(f"no such path: {path[:80]}", status=404, hint=_path_hint(path))
        if requested != method and not (requested == "HEAD" and method == "GET"):
            raise RequestError(f"{path} takes {method}, not {requested}", status=405)
        if path in swagger_ui.PATHS:
            return Reply(200, swagger_ui.body(path), swagger_ui.headers(path))
        if path == FEATURES and self._writer is None:
            what, hint = "this endpoint accepts no rows of features", "set TRUECOURSE_PUSH=true where it runs"
            raise RequestError(what, status=404, hint=hint)
        split = self._current_split()
        if method == "GET":
            return Reply(200, self._documents.get(path, self._router, split.champion), HTML if path == "/" else JSON)
        check_content_type(exchange.scope)  # before the body is read
        body = await self._body(exchange, split.champion)
        if path == FEATURES and self._writer is not None:
            exchange.is_complete = True
            header = _push_header(exchange.scope, split.champion)
            key_id = "" if header["id"] else push_id(exchange.scope["headers"])
            status, answer = await self._writer.push(header | {"id": header["id"] or key_id}, body)
            status = 422 if key_id and status == 409 else status  # as for a key of predictions
            return Reply(status, answer, JSON if status != 503 else RETRY)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.score(exchange, body, partial(_set_result, reply))
        return await reply

    def _current_split(self) -> TrafficSplit:
        if self._router.split is None:
            raise PlatformError("the model is still loading")
        return self._router.split

    def score(self, exchange: Exchange, body: bytes, done: Done) -> None:
        """Queue a request to /predict or /explain. `done` is called with the reply, later, from the event loop."""
        exchange.is_complete = True
        self._scheduler.put(exchange, body, done)

    def answer_together(self, tasks: list[Task]) -> list[Task]:
        waiting: list[PendingRequest] = []
        longer: list[Task] = []
        split: TrafficSplit | None = None
        for task in tasks:
            path = task.exchange.path
            try:
                split = split or self._current_split()
                sent, call = self._read(split, task)
            except Exception as error:
                task.done(_error_reply(path, error))
                continue
            few, trees = len(sent) <= FEW, split.champion.model.trees
            if few and path == "/predict" and split.challenger is None and len(tasks) > 1:
                ids = None if call is None else call.ids(len(sent))
                waiting.append(PendingRequest(sent, partial(self._reply_in_batch, task, len(sent), call), ids))
            elif few or (path == "/predict" and len(sent) * trees <= INLINE_WALKS):
                task.done(self._reply_to(split, path, sent, call))
            else:
                longer.append(task)
        if split is not None and waiting:
            self._batcher.answer(split, waiting)
        return longer

    def answer_alone(self, task: Task) -> Reply:
        try:
            if task.exchange.is_gone:  # gave up while it waited for a thread
                raise PlatformError("the request was given up")
            split = self._current_split()
            sent, call = self._read(split, task)
        except Exception as error:
            return _error_reply(task.exchange.path, error)
        return self._reply_to(split, task.exchange.path, sent, call)

    def _read(self, split: TrafficSplit, task: Task) -> tuple[list[Any], Call | None]:
        """Parse the rows of the request, and identify its call. Raises RequestError."""
        check_content_type(task.exchange.scope)
        sent = split.champion.rows.parse_body(task.body)
        return sent, self._calls.identify(task.exchange, task.body)

    def _reply_to(self, split: TrafficSplit, path: str, sent: list[Any], call: Call | None) -> Reply:
        router = self._router
        try:
            at = datetime.now(UTC)
            rows = split.champion.rows.accept_rows(sent, at)
            _count_rows(router, path, len(rows))
            ids = None if call is None else call.ids(len(rows))
            document, parts = router.answer(split, rows, at, path == "/explain", ids)
            self._calls.remember(call)
            return Reply(200, _encode(document), JSON, lambda: router.finish(split, parts))
        except Exception as error:
            return _error_reply(path, error)

    def _overloaded(self) -> Reply:
        if self._router.metrics is not None:
            self._router.metrics.count_refusal(OVERLOAD.reason)
        return OVERLOAD.reply

    def _reply_in_batch(self, task: Task, rows: int, call: Call | None, answer: Answer | Exception) -> None:
        path = task.exchange.path
        try:
            if isinstance(answer, Exception):
                raise answer
            _count_rows(self._router, path, rows)
            self._calls.remember(call)
            reply = Reply(200, _encode(answer))
        except Exception as error:
            reply = _error_reply(path, error)
        task.done(reply)

    async def _body(self, exchange: Exchange, predictor: Predictor) -> bytes:
        limit, kept, length, more = predictor.contract.max_bytes, [], 0, True
        while more:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the client disconnected", status=400)
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


def _push_header(scope: Message, predictor: Predictor) -> dict[str, str]:
    """What a push is: its area, view, table and id, and the problem whose declarations apply.

    Raises RequestError for an unknown or repeated parameter of the query."""
    _, _, area, view = scope["path"].split("/")
    given = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    options = {"id": "", "table": ""}
    for name, values in given.items():
        if name not in options or len(values) > 1:
            raise RequestError(
                f"unexpected parameter {name[:80]!r}", status=422, hint="the parameters are id and table"
            )
        options[name] = values[0]
    problem = predictor.problem
    return {"area": area, "view": view, **options, "problem": problem.name, "problems": str(problem.folder.parent)}


def _path_hint(path: str) -> str:
    paths = sorted(set(METHODS) - (swagger_ui.PATHS - {"/docs"}))
    close = suggestion(path[:80], paths)
    return f"{close} the paths are {', '.join(paths)}".strip()


def _set_result(future: "asyncio.Future[Reply]", reply: Reply) -> None:
    if not future.done():  # it may have been given up
        future.set_result(reply)


def _error_reply(path: str, error: Exception) -> Reply:
    """The reply to an error."""
    if isinstance(error, RequestError):
        allowed = ((b"allow", METHODS[path].encode()),) if error.status == 405 else ()
        return Reply(error.status, _error_body(error), JSON + allowed)
    if isinstance(error, PlatformError):
        body = ErrorResponse(error=error.what, hint=error.hint).to_json()
        return Reply(503, body, RETRY)
    log.error("%s failed", path, exc_info=error)
    return Reply(500, ErrorResponse(error="internal error; see the server's log").to_json())


def _count_rows(router: ModelRouter, path: str, rows: int) -> None:
    if router.metrics is not None:
        router.metrics.count_rows(path, rows)


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def check_content_type(scope: Message) -> None:
    kinds = [value for name, value in scope["headers"] if name in (b"content-type", b"content-encoding")]
    if kinds == [b"application/json"]:  # the usual case
        return
    kind, *parameters = _header(scope, b"content-type").lower().split(";")
    options = [parameter.partition("=") for parameter in parameters]
    charsets = [value.strip().strip('"') for name, _, value in options if name.strip() == "charset"]
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
    """Whether the charset is UTF-8, or ASCII, which is a subset."""
    try:
        return codecs.lookup(charset).name in ("utf-8", "ascii")
    except (LookupError, ValueError):
        return False


def _error_body(error: RequestError) -> bytes:
    faults = {"faults": error.faults, "fault_count": error.count} if error.faults else {}
    return ErrorResponse(error=error.what, hint=error.hint, **faults).to_json()


def _encode(document: Any) -> bytes:
    return orjson.dumps(document)
