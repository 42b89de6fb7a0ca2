"""Predictions as nearly everybody asks for them, answered where their bytes are read, and in one write.

The server makes a task of every request, and messages of its parts, for an application to wait for and to send: a fifth
of what one row costs. A prediction waits for nothing once its body is there. What is out of the ordinary goes to the
application (services/http/middleware.py), as all would without this module.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import uvicorn.config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from services.http.certificates import Certificates
from services.http.exchange import LAST, App, Exchange, Reply
from services.http.guard import LIMITED_PATHS, Guard
from services.http.protocol import BoundedProtocol
from services.http.refusals import Refusal

EXCHANGE = "truecourse.exchange"
"""The name by which a scope holds an exchange that was begun here."""
APART = frozenset({b"origin", b"x-forwarded-for"})
"""Headers that middlewares before the application look at: CORS, and who asks through a proxy."""


class Scoring(Protocol):
    def score(self, exchange: Exchange, body: bytes, done: Callable[[Reply], None]) -> None: ...


class FastPathProtocol(BoundedProtocol):
    """The protocol of a connection. `_pending`: the request that is answered here, while there is one, and what it
    is handed to if it turns out not to be ordinary; `_exchange` from when it was looked at. `_began`: when what
    came last began to be read."""

    endpoint: Scoring
    _pending: tuple[RequestResponseCycle, App] | None = None
    _exchange: Exchange | None = None
    _reading = False
    _began = 0.0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._reading and not self.flow.write_paused and self._is_ordinary(cycle):
            self._pending = cycle, app  # it is looked at when all that was read has been parsed
        else:
            super()._start_asgi_task(cycle, app)

    def _is_ordinary(self, cycle: RequestResponseCycle) -> bool:
        scope: Any = cycle.scope
        return (
            scope["path"] in LIMITED_PATHS
            and scope["method"] == "POST"
            and not cycle.waiting_for_100_continue
            and not self.guard.leaving
            and APART.isdisjoint(dict(scope["headers"]))
        )

    def data_received(self, data: bytes) -> None:
        self._began = self.guard.pace.clock()
        self._reading = True  # one that waited behind another, and is begun by its answer, is the application's
        try:
            super().data_received(data)
        finally:
            self._reading = False
        if self._pending is not None and not self.transport.is_closing():  # what followed may have been no HTTP
            self._continue(*self._pending)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        held, exchange, self._pending, self._exchange = self._pending, self._exchange, None, None
        if held is not None:
            held[0].on_response = _do_nothing
        if exchange is None:
            return
        exchange.is_gone = True
        if not exchange.is_complete:
            exchange.status = 400
            self.guard.finish(exchange)

    def _continue(self, cycle: RequestResponseCycle, app: App) -> None:
        """As far as what has been read allows."""
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
        refused = self.guard.refusal(exchange)
        if refused is not None:
            self._refuse(cycle, exchange, refused)
        return exchange

    def _refuse(self, cycle: RequestResponseCycle, exchange: Exchange, refused: Refusal) -> None:
        """At once, or when it is its turn: until then nothing more is read of the connection."""
        exchange.is_refused = True
        reply, delay = self.guard.refuse(refused), self.guard.pace.delay(self._began)
        if delay:
            self.flow.pause_reading()
            self.loop.call_later(delay, self._answer, cycle, exchange, reply)
        else:
            self._answer(cycle, exchange, reply.last if delay is None else reply)

    def _late(self, cycle: RequestResponseCycle, exchange: Exchange) -> None:
        self._answer(cycle, exchange, self.guard.refuse(self.guard.timeout_refusal(exchange)))

    def _answer(self, cycle: RequestResponseCycle, exchange: Exchange, reply: Reply) -> None:
        """Unless it was given up before."""
        if exchange.status:
            return
        exchange.status = reply.status
        self._pending = self._exchange = None
        cycle.on_response = _do_nothing  # it would hold the connection, which holds it
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
    """With TLS, where there is a certificate."""


def private_protocol() -> str:
    """The name of the protocol without TLS, for a server that only this machine is to ask."""
    return PRIVATE if PRIVATE in uvicorn.config.HTTP_PROTOCOLS else "auto"


PRIVATE = "private"


def install(guard: Guard, endpoint: Scoring) -> None:
    """For the connections of every server that this process sets up from now on, unless it names a protocol."""
    FastPathProtocol.guard, FastPathProtocol.endpoint = guard, endpoint
    for name, protocol in (("auto", PublicFastPathProtocol), (PRIVATE, FastPathProtocol)):
        uvicorn.config.HTTP_PROTOCOLS[name] = f"{__name__}:{protocol.__name__}"  # type: ignore[index]


def use_certificate(certificate: str, key: str) -> Certificates:
    """Do TLS on public connections from now on. Raises SettingsError for files that are not usable."""
    PublicFastPathProtocol.certificates = certificates = Certificates(certificate, key)
    certificates.watch()
    return certificates
