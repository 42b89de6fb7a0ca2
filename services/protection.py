"""What stands between the network and the endpoint: keys, limits, a deadline, and the meters.

An ASGI layer of its own, outside of services/http.py. Whatever it refuses it refuses before the body is read.
"""

import asyncio
import math
import time
from typing import Any

from services.access import OPEN, Access
from services.health import Health
from services.http import BENTOS, OURS, App, Message, Receive, Send
from services.limits import Buckets, Shedder, Turns
from services.metrics import CONTENT_TYPE, Metrics
from services.refusals import JSON, Refused, answer, refuse
from services.served import Served
from truecourse.errors import PlatformError, RequestError
from truecourse.settings import Settings

METERED = {"/predict", "/explain"}
"""The paths that cost something: a rate and the load are limits of these."""


class Guard:
    """What a worker knows of its callers and its load. Makes no connection before watch()."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self.access = Access(settings)
        self.metrics = Metrics({*OURS, *BENTOS})
        self.health = Health(served, self.access, self.metrics)
        self.shedder = Shedder(settings.max_delay)
        self.turns = Turns(self.shedder)
        self.buckets = Buckets(settings.rate_limit, settings.rate_burst)
        self.timeout = settings.request_timeout
        self.tells = settings.metrics

    def admit(self, scope: Message) -> None:
        """Raises Refused for a request that is not to be answered, PlatformError while the keys are unknown."""
        path = scope["path"]
        try:
            key = self.access.holder(path, scope["headers"])
        except RequestError as error:
            reason = "forbidden" if error.status == 403 else "unauthenticated"
            raise Refused(reason, error.status, error.what, error.cure) from None
        if path not in METERED:
            return
        self.turns.begin()
        caller = key.id if key is not None else (scope.get("client") or ("",))[0]
        wait = self.buckets.take(caller)
        if wait:
            raise Refused("rate", 429, "too many requests of this caller", "slow down", math.ceil(wait))
        if not self.shedder.admits():
            self.turns.when_full()
            raise Refused("overload", 429, "the endpoint has more to do than it can", "try again later", 1)


class First:
    """The outermost of our middlewares, which puts itself before Bento's own when the server starts.

    Those make a task and a timer of every request, and look for a trace: more work than to refuse it, under which an
    endpoint that refuses two of three requests would break down."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["app"].middleware_stack = self._app  # Starlette's; what it stands for now has this lifespan only
        await self._app(scope, receive, send)


class Protection:
    """An ASGI middleware."""

    def __init__(self, app: App, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self._app(scope, receive, send)
        exchange = Exchange(receive, send, self._guard.shedder)
        try:
            self._guard.admit(scope)
            await self._answer(scope, exchange)
        except Refused as refused:
            self._guard.metrics.refused.labels(refused.reason).inc()
            await refuse(exchange.send, refused, scope["method"] == "HEAD")
        except PlatformError as error:
            await refuse(exchange.send, Refused("keys", 503, error.what, error.cure, 1), scope["method"] == "HEAD")
        finally:
            exchange.end()
            self._guard.metrics.answered(scope["path"], exchange.status, time.perf_counter() - exchange.begun)
        return None

    async def _answer(self, scope: Message, exchange: "Exchange") -> None:
        own = {"/metrics": self._metrics, "/healthz": self._health}.get(scope["path"])
        if own == self._metrics and not self._guard.tells:
            raise Refused("hidden", 404, "the meters are not told", "set TRUECOURSE_METRICS=true")
        if own is not None and scope["method"] in ("GET", "HEAD"):
            status, kind, body = await asyncio.to_thread(own)
            return await answer(exchange.send, status, body, [(b"content-type", kind)], scope["method"] == "HEAD")
        try:
            async with asyncio.timeout(self._guard.timeout):
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if exchange.status:  # half an answer cannot be taken back
                raise
            status, what = (504, "was not answered") if exchange.whole else (408, "did not come in")
            cure = "try again" if exchange.whole else "send the body at once"
            raise Refused("timeout", status, f"the request {what} in {self._guard.timeout} s", cure) from None
        return None

    def _metrics(self) -> tuple[int, bytes, bytes]:
        return 200, CONTENT_TYPE, self._guard.metrics.exposition()

    def _health(self) -> tuple[int, bytes, bytes]:
        document = self._guard.health.document()
        return 503 if document["status"] == "failing" else 200, b"application/json", JSON.encode(document).encode()


class Exchange:
    """One request and its answer, as they pass: whether the body has come in whole, and the status (0: none yet)."""

    def __init__(self, receive: Receive, send: Send, shedder: Shedder) -> None:
        self.begun = time.perf_counter()
        self.status = 0
        self._receive, self._send, self._shedder = receive, send, shedder
        self.whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not self.whole and message["type"] == "http.request" and not message.get("more_body", False):
            self.whole = True
            self._shedder.taken()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    def end(self) -> None:
        if self.whole:
            self._shedder.left()


def protect(service: Any, guard: Guard, settings: Settings) -> None:
    """Put the guard before what is added to a Bento service from now on, and CORS, which asks for no key, before it."""
    service.add_asgi_middleware(First)
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
    service.add_asgi_middleware(Protection, guard=guard)
