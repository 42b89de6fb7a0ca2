"""What stands between the network and the endpoint: keys, limits, a deadline, and the meters.

Whatever it refuses it refuses before the body is read.
"""

import asyncio
import logging
import math
import time
from typing import Any, Protocol

import orjson

from services.access import OPEN, Access
from services.admission import Admission
from services.exchange import App, Deadlines, Exchange, Message, Receive, Reply, Send
from services.health import Health
from services.http import OURS
from services.limits import Buckets, Shedder, Turns
from services.metrics import CONTENT_TYPE, Metrics
from services.refusals import Refused
from services.served import Served
from truecourse.errors import PlatformError, RequestError
from truecourse.settings import Settings

access_log = logging.getLogger("truecourse.access")
OVERLOAD = Refused("overload", 429, "the endpoint has more to do than it can", "try again later", 1)
OWN = {"/metrics", "/healthz"}
METERED = {"/predict", "/explain"}
"""The paths that cost something: a rate and the load are limits of these."""


class Guard:
    """What a worker knows of its callers and its load. Makes no connection before watch()."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self.access = Access(settings)
        self.metrics = Metrics({*OURS, *OPEN})
        self.health = Health(served, self.access, self.metrics)
        self.shedder = Shedder(settings.max_delay)
        self.turns = Turns(self.shedder)
        self.buckets = Buckets(settings.rate_limit, settings.rate_burst)
        self.deadlines = Deadlines(settings.request_timeout)
        self.tells = settings.metrics
        self.logs_each = settings.access_log
        if self.logs_each:
            access_log.setLevel(logging.INFO)

    def refusal(self, exchange: Exchange) -> Refused | None:
        """Why it is not to be answered. Told, not raised: under overload most requests come to no more than this."""
        path, scope = exchange.path, exchange.scope
        try:
            key = self.access.holder(path, scope["headers"])
        except RequestError as error:
            reason = "forbidden" if error.status == 403 else "unauthenticated"
            return Refused(reason, error.status, error.what, error.cure)
        except PlatformError as error:
            return Refused("keys", 503, error.what, error.cure, 1)
        if path not in METERED:
            return None
        self.turns.begin()
        caller = key.id if key is not None else (scope.get("client") or ("",))[0]
        wait = self.buckets.take(caller)
        if wait:
            return Refused("rate", 429, "too many requests of this caller", "slow down", math.ceil(wait))
        if not self.shedder.admits(alone=not self.turns.crowded):
            self.turns.when_full()
            return OVERLOAD
        return None


class First:
    """The outermost of our middlewares, which puts those behind it before Bento's own when the server starts.

    Those make a task and a timer of every request, and look for a trace: more work than to refuse it, under which an
    endpoint that refuses two of three requests would break down."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["app"].middleware_stack = self._app  # Starlette's; what it stands for now has this lifespan only
        await self._app(scope, receive, send)


class Answering(Protocol):
    """What is protected."""

    async def reply(self, exchange: Exchange) -> Reply: ...


class Protection:
    """An ASGI middleware before Bento's application, which answers nothing but what a cluster's probes ask."""

    def __init__(self, app: App, guard: Guard, endpoint: Answering) -> None:
        self._app = app
        self._guard, self._endpoint = guard, endpoint

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self._app(scope, receive, send)
        guard, exchange = self._guard, Exchange(scope, receive, self._guard.shedder)
        try:
            refused = guard.refusal(exchange)
            reply = await self._reply(exchange) if refused is None else self._refuse(refused)
            exchange.status = reply.status
            await reply.send(send, scope["method"] == "HEAD")
        finally:
            guard.deadlines.end(exchange)
            exchange.end()
            seconds = time.perf_counter() - exchange.begun
            guard.metrics.answered(exchange.path, exchange.status, seconds)
            if guard.logs_each:
                caller, *_ = scope.get("client") or ("",)
                line = caller, scope["method"], exchange.path[:200], exchange.status, seconds * 1000
                access_log.info("%s %s %r %d in %.1f ms", *line)
        if reply.after is not None:
            reply.after()
        return None

    async def _reply(self, exchange: Exchange) -> Reply:
        if exchange.path == "/metrics" and not self._guard.tells:
            return self._refuse(Refused("hidden", 404, "the meters are not told", "set TRUECOURSE_METRICS=true"))
        if exchange.path in OWN and exchange.scope["method"] in ("GET", "HEAD"):
            return await asyncio.to_thread(self._metrics if exchange.path == "/metrics" else self._health)
        deadlines = self._guard.deadlines
        task = deadlines.begin(exchange)
        try:
            return await self._endpoint.reply(exchange)
        except asyncio.CancelledError:
            if not exchange.late or task.uncancel():  # somebody else wants it to end
                raise
            status, what = (504, "was not answered") if exchange.whole else (408, "did not come in")
            cure = "try again" if exchange.whole else "send the body at once"
            return self._refuse(Refused("timeout", status, f"the request {what} in {deadlines.seconds} s", cure))

    def _refuse(self, refused: Refused) -> Reply:
        self._guard.metrics.turned_away(refused.reason)
        return refused.reply

    def _metrics(self) -> Reply:
        return Reply(200, self._guard.metrics.exposition(), ((b"content-type", CONTENT_TYPE),))

    def _health(self) -> Reply:
        document = self._guard.health.document()
        return Reply(503 if document["status"] == "failing" else 200, orjson.dumps(document))


def protect(service: Any, guard: Guard, endpoint: Answering, settings: Settings) -> None:
    """Put the guard and the endpoint before a Bento service's own, CORS, which asks for no key, before them, and before
    all of these what lets a server in and out."""
    service.add_asgi_middleware(First)  # the first one is the outermost
    service.add_asgi_middleware(Admission, folder=settings.admission)
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        service.add_asgi_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after"],
            max_age=600,
        )
    service.add_asgi_middleware(Protection, guard=guard, endpoint=endpoint)
