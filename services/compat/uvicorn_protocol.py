"""uvicorn's HTTP protocol class, whose subclasses bound what a client holds of a worker (services/http/protocol.py).

What: `HttpToolsProtocol` is subclassed, and registered under a name in `HTTP_PROTOCOLS`. `Flow` replaces the
`FlowControl` of a connection.
Why: uvicorn limits neither the time nor the size of a request's header, closes no connection that never sends a
request, and reads a pipelining client on without end.
Without it: one client can occupy a worker. So no setting leaves it out.
"""

import asyncio
from collections.abc import Collection
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import is_ssl

from truecourse.compat.patch import Patch

__all__ = ["PATCH", "STATUS_LINE", "Flow", "HttpToolsProtocol", "is_registered", "is_ssl", "register"]

PATCH = Patch(
    module=__name__,
    checked={"uvicorn": ("0.54.0",), "httptools": ("0.9.0",)},
    changes="subclasses HttpToolsProtocol and FlowControl, and adds names to HTTP_PROTOCOLS",
    reason="uvicorn bounds neither headers nor silent connections",
    upstream="https://github.com/Kludex/uvicorn/pull/1192",
    without="one client can occupy a worker",
)
OVERRIDDEN = {
    "connection_made": ("transport",),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "eof_received": (),
    "on_message_begin": (),
    "on_headers_complete": (),
    "on_message_complete": (),
    "on_response_complete": (),
    "shutdown": (),
    "_should_upgrade_to_ws": (),
    "_start_asgi_task": ("cycle", "app"),
}
"""Methods of HttpToolsProtocol that our classes replace or call, with their parameters."""
READ = (
    "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state", "transport",
)  # fmt: skip
"""Attributes of a protocol that our classes read. `url` is added to them when a request begins."""


class Flow(FlowControl):
    """Resumes reading once all read requests are answered: a client that never reads replies fills no memory."""

    def __init__(self, transport: asyncio.Transport, pipeline: Collection[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()


def register(name: str, protocol: type[asyncio.Protocol]) -> None:
    """Make `protocol` the one that uvicorn's setting `http=name` uses, in this process. `auto` is the default."""
    uvicorn.config.HTTP_PROTOCOLS[name] = f"{protocol.__module__}:{protocol.__qualname__}"  # type: ignore[index]


def is_registered(name: str) -> bool:
    return name in uvicorn.config.HTTP_PROTOCOLS
