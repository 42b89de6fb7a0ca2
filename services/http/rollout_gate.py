"""Letting a new server in: before it takes its first connection it answers on a port that only the deploy flow knows.

BentoML's workers inherit the public socket, and accept from it as soon as the application has started. This ASGI
middleware holds the end of that start back: the worker listens on a loopback port of its own, `<pid>.port` in the
admission folder, until the folder holds `open`. A worker that is started later, for one that died, goes straight in.
When the folder holds `leaving`, every answer ends its connection, so that clients come back to the server that follows.
"""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from services.http import fast_path
from services.http.exchange import App, Message, Receive, Send
from services.http.guard import Guard
from truecourse.errors import PlatformError

OPEN, LEAVING = "open", "leaving"
GRACE = 1.0
"""Seconds for a connection that was just accepted to bring its request."""
PERIOD = 0.05
"""Seconds between two looks at the folder."""


class RolloutGate:
    """The middleware. With no folder it does nothing."""

    def __init__(self, app: App, folder: Path | None, guard: Guard) -> None:
        self._app = app
        self._folder = folder
        self._guard = guard
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._folder is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, self._held(send, self._folder))
        return await self._app(scope, receive, self._last(send) if self._guard.leaving else send)

    def _held(self, send: Send, folder: Path) -> Send:
        async def held(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                if not (folder / OPEN).exists():
                    await self._rehearse(folder)
                self._watch = asyncio.create_task(self._follow(folder))
                _finish_what_was_accepted()
            await send(message)

        return held

    async def _rehearse(self, folder: Path) -> None:
        """Answer on a port of our own until we are let in. Raises PlatformError if we are told to stop instead."""
        options: dict[str, Any] = {"lifespan": "off", "log_config": None, "http": fast_path.private_protocol()}
        config = uvicorn.Config(self._app, host="127.0.0.1", port=0, **options)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(PERIOD)
        place = folder / f"{os.getpid()}.port"
        port = server.servers[0].sockets[0].getsockname()[1] if server.started else 0
        aside = place.with_suffix(".new")
        aside.write_text(str(port))
        aside.replace(place)  # whoever reads it never sees half of it
        while not serving.done() and not server.should_exit and not (folder / OPEN).exists():
            await asyncio.sleep(PERIOD)
        admitted = (folder / OPEN).exists()
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving
        place.unlink(missing_ok=True)
        if not admitted:
            raise PlatformError("stopped before it was let in", where=str(folder))

    async def _follow(self, folder: Path) -> None:
        """Until we are told to leave, or are left alone: the keeper replaces a server whose leader died."""
        leader = os.getppid()
        while True:
            await asyncio.sleep(PERIOD)
            self._guard.leaving = (folder / LEAVING).exists()
            if os.getppid() != leader:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _last(self, send: Send) -> Send:
        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        return last


def _finish_what_was_accepted() -> None:
    """Let uvicorn, when it is told to stop, first stop accepting and only then close what is idle: a connection whose
    request is still on its way counts as idle."""
    shutdown = uvicorn.Server.shutdown

    async def finish(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(GRACE)
        await shutdown(self, sockets)

    uvicorn.Server.shutdown = finish  # type: ignore[method-assign]
