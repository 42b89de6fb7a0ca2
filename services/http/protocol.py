"""uvicorn's HTTP protocol with the limits of services/http/transport.py."""

import asyncio
import math
from typing import Any

import httptools

from services.compat.tls_protocol import start_tls
from services.compat.uvicorn_protocol import STATUS_LINE, Flow, HttpToolsProtocol, is_ssl
from services.http import peers
from services.http.certificates import Certificates
from services.http.exchange import ANSWERING, LOCAL, Reply
from services.http.refusals import Refusal
from services.http.request_guard import Guard

LONGEST_LINE = 8192
"""Most bytes of a request's target."""
MOST_HEADERS = 100
LINGER = 2.0
"""Seconds for which data is read and dropped after a refusal: closing the connection at once would lose the refusal."""
SLACK = 2.0
"""Seconds between a body's deadline, at which its exchange is answered with a refusal, and dropping the connection."""
CLOSE = (b"connection", b"close")
CROWDED = Refusal("connections", 503, "the endpoint has too many connections", "try again later", 1)
MALFORMED = Refusal("malformed", 400, "the request is not valid HTTP", "send HTTP/1.1")
LONG_LINE = Refusal(
    "header", 414, f"the request line is longer than {LONGEST_LINE >> 10} KiB", "send the data in the body"
)
MANY_HEADERS = Refusal("header", 431, f"the request has more than {MOST_HEADERS} headers", "send fewer")


HANDSHAKE, REQUEST, HEADER, BODY, NOTHING = range(5)
"""The phase of a connection: what the client has to send next, the end of a TLS handshake, a request, the rest of a
header, the rest of a body; or NOTHING: its data is dropped. No Enum: a member lookup costs more than all other work."""


class BoundedProtocol(HttpToolsProtocol):
    """The protocol of a connection. `certificates`: for TLS here; None for plain HTTP, or where the server does TLS."""

    guard: Guard
    certificates: Certificates | None = None
    deadline = math.inf
    _phase = HEADER
    _is_new = False
    """Whether the phase began in the data that is being parsed, and has no deadline yet."""
    _accepted = _is_local = _is_last = False
    _header = _chunk = 0
    _refusal: Refusal | None = None
    _last_reply = url = b""
    _accepted_transport: Any
    """The accepted transport, below TLS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._accepted and not self._accept(transport):
            return
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._phase = HEADER if self._phase != NOTHING else self._phase

    def _accept(self, transport: asyncio.Transport) -> bool:
        """Count the connection, and start TLS. Whether HTTP starts here, without TLS in between."""
        self._accepted, self._accepted_transport = True, transport
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._is_local = peers.is_local(peer, own)
        connections = self.guard.connections
        does_tls = self.certificates is not None and not is_ssl(transport)
        if not connections.open(self, peer):
            self._phase, self.deadline = NOTHING, math.inf
            self.guard.metrics.count_refusal(CROWDED.reason)
            if not does_tls:
                transport.write(_serialize(CROWDED.reply))
            transport.close()
            return not does_tls
        self.deadline = self.loop.time() + connections.header_seconds
        if does_tls:
            assert self.certificates is not None
            self._phase = HANDSHAKE
            start_tls(self, transport, self.certificates.context, connections.header_seconds)
        return not does_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.connections.close(self)
        if self.transport is not None:  # None for a connection that was refused
            super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            scope: Any = self.cycle.scope
            if (exchange := scope.get(ANSWERING)) is not None:
                exchange.is_gone = True

    def connection_ended(self) -> None:
        """The accepted transport was closed, perhaps during the handshake."""
        self.guard.connections.close(self)

    @property
    def _is_answering(self) -> bool:
        """Whether a received request waits for its reply."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and (not cycle.more_body or bool(self.pipeline))

    @property
    def rank(self) -> int | None:
        if self._is_answering:
            return None
        if self._phase in (HANDSHAKE, REQUEST) or (self._phase == HEADER and not self._header):
            return 0
        return 1 if self._phase == HEADER else 2

    @property
    def is_stuck(self) -> bool:
        return self._accepted_transport.is_closing() or (self.flow is not None and self.flow.write_paused)

    def drop(self) -> None:
        self._accepted_transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._phase == NOTHING:
            return
        if self._phase == REQUEST:
            if len(data) < 3 and data in (b"\r\n", b"\n"):  # some clients send a line break after a body
                return
            self._begin_header()
        size = len(data)
        if self._phase == HEADER:
            self._header += size
        self._chunk = size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_last, self.cycle.keep_alive = True, False  # no other protocol is supported
        except httptools.HttpParserError:
            self._reject(self._refusal or MALFORMED)
        else:
            if self._is_new:
                self._begin_phase()
            if self._phase == HEADER and (refusal := self._find_excess(False)) is not None:
                self._reject(refusal)

    def _begin_header(self) -> None:
        self._phase, self._header, self._is_new = HEADER, 0, True

    def _begin_phase(self) -> None:
        """Set the deadline of a phase that began in the parsed data and did not end there."""
        self._is_new, connections = False, self.guard.connections
        if self._phase == HEADER:
            self.deadline = self.loop.time() + connections.header_seconds
        elif self._phase == BODY:
            self.deadline = self.loop.time() + connections.body_seconds + SLACK

    def on_message_begin(self) -> None:
        if self._phase == REQUEST:  # pipelined behind another request
            self._begin_header()
            self._header = 1
        super().on_message_begin()
        scope: Any = self.scope
        scope[LOCAL] = self._is_local

    def on_headers_complete(self) -> None:
        limit = self.guard.connections.header_bytes
        is_large = self._chunk > limit or self._header > limit
        if is_large or len(self.headers) > MOST_HEADERS or len(self.url) > LONGEST_LINE:
            refusal = self._find_excess(is_large)
            if refusal is not None:  # stop the parser
                self._refusal = refusal
                raise ValueError(refusal.what)
        self._phase, self._is_new = BODY, True
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = REQUEST
        if self.cycle.response_complete:
            self._wait_for_request()
        else:
            self.deadline = math.inf

    def on_response_complete(self) -> None:
        """Like uvicorn's method, without its keep-alive timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        following = self.pipeline.pop() if self.pipeline else None
        if self.flow.read_paused:
            self.flow.resume_reading()
        if following is not None:
            self._start_asgi_task(*following)
        elif self._is_last:
            self.transport.write(self._last_reply)
            self.transport.close()
        elif self._phase == REQUEST:
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        self.deadline = self.loop.time() + self.guard.connections.idle_seconds

    def _find_excess(self, counted: bool) -> Refusal | None:
        """Why the header so far is too large; None if it is not. `counted`: measure its parts, not the data read, which
        may hold more."""
        limit, lines = self.guard.connections.header_bytes, len(self.headers or ())
        if len(self.url) > LONGEST_LINE:
            return LONG_LINE
        if lines > MOST_HEADERS:
            return MANY_HEADERS
        size = sum(len(name) + len(value) + 4 for name, value in self.headers) if counted else 0
        if len(self.url) + size > limit or (self._phase == HEADER and not counted and self._header > limit):
            what = f"the header is longer than {limit // 1024} KiB"
            return Refusal("header", 431, what, "send less; see TRUECOURSE_HEADER_LIMIT")
        return None

    def _reject(self, refusal: Refusal) -> None:
        """Refuse invalid data, after the replies to earlier requests, and close the connection."""
        self._phase, self._is_last, self.deadline = NOTHING, True, self.loop.time() + LINGER
        answer = _serialize(self.guard.refuse(refusal), self.server_state.default_headers)
        if self._is_answering:
            self._drop_incomplete()
            self._last_reply, self.deadline = answer, math.inf
            return
        self.transport.write(answer)
        if refusal.reason == "header" and self.transport.can_write_eof():
            self.transport.write_eof()
        elif refusal.reason != "header":
            self.transport.close()

    def expire(self) -> None:
        """Handle an expired deadline."""
        if self._is_answering:  # the client waits for the reply
            self.deadline = self.loop.time() + self.guard.connections.header_seconds
        elif self._phase == HEADER and self._header:
            seconds = self.guard.connections.header_seconds
            what = f"the header was not received within {seconds:g} s"
            self._reject(Refusal("timeout", 408, what, "send the header at once"))
        elif self._phase == REQUEST:
            self.transport.close()
        else:
            self.drop()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client closed its side. Whether to keep the connection open for a reply."""
        if is_ssl(self.transport) or self._phase == NOTHING or not self._is_answering:
            return False
        self._drop_incomplete()
        self._phase, self._is_last, self.deadline = NOTHING, True, math.inf
        return True

    def _drop_incomplete(self) -> None:
        """Drop the last pipelined request if the rest of it will never arrive."""
        if self.cycle.more_body:
            self.pipeline.popleft()

    def shutdown(self) -> None:
        """Shut down: answer requests that were received or are arriving, then close."""
        if self._phase in (REQUEST, HEADER) and not (self._is_answering or self._is_arriving):
            self.transport.close()
            return
        self._is_last = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    @property
    def _is_arriving(self) -> bool:
        return self._phase == HEADER and self._header > 0

    def _should_upgrade_to_ws(self) -> bool:
        return False


class PublicBoundedProtocol(BoundedProtocol):
    """The protocol of the public socket, with TLS if there is a certificate."""


def _serialize(reply: Reply, default_headers: Any = ()) -> bytes:
    headers = [*default_headers, *reply.headers, (b"content-length", b"%d" % len(reply.body))]
    headers += [CLOSE] if CLOSE not in headers else []
    lines = [b"%s: %s\r\n" % header for header in headers]
    return b"".join([STATUS_LINE[reply.status], *lines, b"\r\n", reply.body])
