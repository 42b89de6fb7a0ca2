"""The TLS protocol of the event loop, started on a connection that a plain server has accepted.

What: `SSLProtocol` of `asyncio.sslproto` or `uvloop.loop` is subclassed, and set as the protocol of the transport.
Why: the connection is counted and has a deadline before its handshake, and new ones get a reloaded certificate. The
public `loop.start_tls()` is a coroutine for one connection, and does not report a failed handshake.
Without it: handshakes would be unlimited, and a new certificate would need a restart. So no setting leaves it out.
"""

import asyncio
import ssl
from functools import cache
from importlib import import_module
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"uvloop": ("0.23.0",)},
    changes="subclasses SSLProtocol of asyncio or uvloop, and sets it as an accepted connection's protocol",
    reason="loop.start_tls() reports no failed handshake, and takes a task for every connection",
    upstream="https://github.com/python/cpython/issues/79156",
    without="handshakes have no limits, and a new certificate needs a restart",
)


def start_tls(protocol: Any, transport: asyncio.Transport, context: ssl.SSLContext, seconds: float) -> None:
    """Start TLS on an accepted connection.

    `protocol.connection_made` is called after the handshake, `protocol.connection_ended` at the end in any case. A
    handshake that takes longer than `seconds` is aborted."""
    options = {"server_side": True, "ssl_handshake_timeout": seconds}
    kind = tls_protocol(isinstance(protocol.loop, asyncio.BaseEventLoop))
    tls = kind(protocol.loop, protocol, context, None, **options)
    tls.ended = protocol.connection_ended
    transport.set_protocol(tls)
    tls.connection_made(transport)


@cache
def tls_protocol(of_asyncio: bool) -> Any:
    """The TLS protocol class of the event loop: uvloop's works with its own transports only."""
    base: Any = import_module("asyncio.sslproto" if of_asyncio else "uvloop.loop").SSLProtocol

    class Encrypted(base):  # type: ignore[misc]
        ended: Any

        def connection_lost(self, exc: BaseException | None) -> None:
            self.ended()
            super().connection_lost(exc)

    return Encrypted
