"""ASGI middleware before BentoML's application: the guard and our own endpoint."""

import asyncio
from typing import Any, Protocol

from services.compat import starlette_middleware
from services.http import fast_path
from services.http.authentication import OPEN
from services.http.exchange import ANSWERING, App, Exchange, Message, Receive, Reply, Send
from services.http.refusals import Refusal
from services.http.request_guard import Guard
from services.http.rollout_gate import RolloutGate
from services.http.routes import Endpoint
from services.telemetry.prometheus_metrics import CONTENT_TYPE
from truecourse.settings import Settings

GUARD_PATHS = {"/metrics", "/healthz"}


class OutermostMiddleware:
    """The outermost middleware. At startup it puts ours in front of BentoML's (services/compat)."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            starlette_middleware.enter_at(scope["app"], self._app)
        await self._app(scope, receive, send)


class ReplyingEndpoint(Protocol):
    """The endpoint behind the guard."""

    async def reply(self, exchange: Exchange) -> Reply: ...


class GuardMiddleware:
    """Guards and answers requests. BentoML's application answers only probes of a cluster."""

    def __init__(self, app: App, guard: Guard, endpoint: ReplyingEndpoint) -> None:
        self._app = app
        self.guard, self._endpoint = guard, endpoint

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self._app(scope, receive, send)
        guard, exchange, refusal = self.guard, scope.pop(fast_path.EXCHANGE, None), None
        if exchange is None:
            exchange = Exchange(scope)
            refusal = guard.refusal(exchange)
        elif exchange.status:  # given up before this task ran
            return None
        exchange.receive = receive
        scope[ANSWERING] = exchange
        try:
            reply = await self._reply(exchange) if refusal is None else await self._refuse(exchange, refusal)
            exchange.status = reply.status
            await reply.send(send, scope["method"] == "HEAD")
        finally:
            del scope[ANSWERING]  # a reference cycle
            guard.finish(exchange)
        if reply.after is not None:
            reply.after()
        return None

    async def _reply(self, exchange: Exchange) -> Reply:
        guard = self.guard
        if exchange.path == "/metrics" and not guard.exposes_metrics:
            return guard.refuse(Refusal("hidden", 404, "metrics are disabled", "set TRUECOURSE_METRICS=true"))
        if exchange.path in GUARD_PATHS and exchange.scope["method"] in ("GET", "HEAD"):
            return await asyncio.to_thread(self._metrics if exchange.path == "/metrics" else self._health)
        task = asyncio.current_task()
        assert task is not None
        guard.deadlines.begin(exchange, task.cancel)
        try:
            return await self._endpoint.reply(exchange)
        except asyncio.CancelledError:
            if not exchange.is_late or task.uncancel():  # cancelled by somebody else
                raise
            return guard.refuse(guard.timeout_refusal(exchange))

    async def _refuse(self, exchange: Exchange, refusal: Refusal) -> Reply:
        reply, delay = self.guard.refuse(refusal), self.guard.pace.delay(exchange.started)
        if delay is None:
            return reply.last
        if delay:
            await asyncio.sleep(delay)
        return reply

    def _metrics(self) -> Reply:
        return Reply(200, self.guard.metrics.exposition(), ((b"content-type", CONTENT_TYPE),))

    def _health(self) -> Reply:
        document = self.guard.health.document()
        return Reply(503 if document.status == "failing" else 200, document.to_json())


def protect(service: Any, guard: Guard, endpoint: Endpoint, settings: Settings) -> None:
    """Install the middlewares of a BentoML service, outermost first: BentoML bypass, rollout gate, CORS (which needs no
    key), guard and endpoint."""
    fast_path.install(guard, endpoint, settings.fast_path)
    service.add_asgi_middleware(OutermostMiddleware)  # the first one is the outermost
    service.add_asgi_middleware(RolloutGate, folder=settings.admission, guard=guard)
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        service.add_asgi_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-api-key"],
            expose_headers=["retry-after"],
            max_age=600,
        )
    service.add_asgi_middleware(GuardMiddleware, guard=guard, endpoint=endpoint)
