"""The fast path: a prediction is answered in the connection's read callback, in one write.

uvicorn makes a task of every request and messages of its parts, for an ASGI application to await and send; that is a
fifth of the cost of a one-row prediction. A prediction awaits nothing once its body has been read. Every other request
goes to the application (services/http/middleware.py), as all do with TRUECOURSE_FAST_PATH=false.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from services.compat import uvicorn_protocol
from services.compat.uvicorn_fast_path import HIGH_WATER_LIMIT, RequestResponseCycle
from services.compat.uvicorn_protocol import STATUS_LINE
from services.http.certificates import Certificates
from services.http.exchange import LAST, App, Exchange, Reply
from services.http.protocol import BoundedProtocol, PublicBoundedProtocol
from services.http.refusals import Refusal
from services.http.request_guard import LIMITED_PATHS, Guard

EXCHANGE = "truecourse.exchange"
"""The key of a scope that holds an exchange that was started here."""
APPLICATION_HEADERS = frozenset({b"origin", b"x-forwarded-for"})
"""Headers that middlewares before the application handle: CORS, and addresses behind a proxy."""


class Scoring(Protocol):
    def score(self, exchange: Exchange, body: bytes, done: Callable[[Reply], None]) -> None: ...


class FastPathProtocol(BoundedProtocol):
    """The protocol of a connection.

    `_pending`: the request that is answered here and the application that takes it over if it needs one. `_exchange`:
    set when the request is first handled. `_began`: when reading of the last data began."""

    endpoint: Scoring
    _pending: tuple[RequestResponseCycle, App] | None = None
    _exchange: Exchange | None = None
    _reading = False
    _began = 0.0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._reading and not self.flow.write_paused and self._is_ordinary(cycle):
            self._pending = cycle, app  # handled when all data that was read has been parsed
        else:
            super()._start_asgi_task(cycle, app)

    def _is_ordinary(self, cycle: RequestResponseCycle) -> bool:
        scope: Any = cycle.scope
        return (
            scope["path"] in LIMITED_PATHS
            and scope["method"] == "POST"
            and not cycle.waiting_for_100_continue
            and not self.guard.leaving
            and APPLICATION_HEADERS.isdisjoint(dict(scope["headers"]))
        )

    def data_received(self, data: bytes) -> None:
        self._began = self.guard.pace.clock()
        self._reading = True  # a pipelined request, which the previous reply starts, goes to the application
        try:
            super().data_received(data)
        finally:
            self._reading = False
        if self._pending is not None and not self.transport.is_closing():  # later data may have been malformed
            self._continue(*self._pending)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        pending, exchange, self._pending, self._exchange = self._pending, self._exchange, None, None
        if pending is not None:
            pending[0].on_response = _do_nothing
        if exchange is None:
            return
        exchange.is_gone = True
        if not exchange.is_complete:
            exchange.status = 400
            self.guard.finish(exchange)

    def _continue(self, cycle: RequestResponseCycle, app: App) -> None:
        """Handle the pending request as far as the data that was read allows."""
        exchange = self._exchange or self._begin(cycle)
        if exchange.status or exchange.is_complete or exchange.is_refused:
            return
        if not cycle.more_body:
            self.endpoint.score(exchange, bytes(cycle.body), partial(self._answer, cycle, exchange))
        elif len(cycle.body) > HIGH_WATER_LIMIT:
            self._pending = self._exchange = None
            scope: Any = cycle.scope
            scope[EXCHANGE] = exchange
            super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]
            return
        if not exchange.status:
            self.guard.deadlines.begin(exchange, partial(self._late, cycle, exchange))

    def _begin(self, cycle: RequestResponseCycle) -> Exchange:
        scope: Any = cycle.scope
        exchange = self._exchange = Exchange(scope)
        refusal = self.guard.refusal(exchange)
        if refusal is not None:
            self._refuse(cycle, exchange, refusal)
        return exchange

    def _refuse(self, cycle: RequestResponseCycle, exchange: Exchange, refusal: Refusal) -> None:
        """Refuse at once, or after the delay that Pace gives, in which the connection is not read."""
        exchange.is_refused = True
        reply, delay = self.guard.refuse(refusal), self.guard.pace.delay(self._began)
        if delay:
            self.flow.pause_reading()
            self.loop.call_later(delay, self._answer, cycle, exchange, reply)
        else:
            self._answer(cycle, exchange, reply.last if delay is None else reply)

    def _late(self, cycle: RequestResponseCycle, exchange: Exchange) -> None:
        self._answer(cycle, exchange, self.guard.refuse(self.guard.timeout_refusal(exchange)))

    def _answer(self, cycle: RequestResponseCycle, exchange: Exchange, reply: Reply) -> None:
        """Send the reply, unless the exchange was given up before."""
        if exchange.status:
            return
        exchange.status = reply.status
        self._pending = self._exchange = None
        cycle.on_response = _do_nothing  # avoids a reference cycle with the connection
        try:
            if not self.transport.is_closing():
                self._write(cycle, reply)
        finally:
            self.guard.finish(exchange)
        if reply.after is not None:
            reply.after()

    def _write(self, cycle: RequestResponseCycle, reply: Reply) -> None:
        headers = (*self.server_state.default_headers, *reply.headers, (b"content-length", b"%d" % len(reply.body)))
        last = LAST in headers
        if not (cycle.keep_alive or last):
            headers, last = (*headers, LAST), True
        parts = [STATUS_LINE[reply.status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*parts, b"\r\n", reply.body)))
        cycle.response_started = cycle.response_complete = True
        if last:
            self.transport.close()
        self.on_response_complete()


def _do_nothing() -> None:
    pass


class PublicFastPathProtocol(FastPathProtocol):
    """The protocol of the public socket, with TLS if there is a certificate."""


def private_protocol() -> str:
    """Name of the protocol without TLS, for a server on a loopback port."""
    return PRIVATE if uvicorn_protocol.is_registered(PRIVATE) else "auto"


PRIVATE = "private"


def install(guard: Guard, endpoint: Scoring, enabled: bool = True) -> None:
    """Use the protocols with our limits for every server that this process starts, unless it names another protocol.

    `enabled`: whether predictions take the fast path; otherwise the ASGI application answers every request."""
    FastPathProtocol.guard = BoundedProtocol.guard = guard
    FastPathProtocol.endpoint = endpoint
    uvicorn_protocol.register("auto", PublicFastPathProtocol if enabled else PublicBoundedProtocol)
    uvicorn_protocol.register(PRIVATE, FastPathProtocol if enabled else BoundedProtocol)


def use_certificate(certificate: str, key: str) -> Certificates:
    """Use TLS on public connections. Raises SettingsError for unusable files."""
    certificates = Certificates(certificate, key)
    PublicFastPathProtocol.certificates = PublicBoundedProtocol.certificates = certificates
    certificates.watch()
    return certificates
