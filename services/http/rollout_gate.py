"""The rollout gate: a new server is tested on loopback ports before it accepts public connections.

BentoML's workers inherit the public socket and accept from it when the application has started. This ASGI middleware
delays the end of that start: the worker listens on a loopback port of its own, written to `<pid>.port` in the gate's
folder, until the folder holds `open`. A worker that starts later, in place of one that died, accepts at once. When the
folder holds `leaving`, every reply closes its connection, so that clients reconnect to the next server.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from services.compat import uvicorn_shutdown
from services.http import fast_path
from services.http.exchange import App, Message, Receive, Send
from services.http.request_guard import Guard
from truecourse.errors import PlatformError

OPEN, LEAVING = "open", "leaving"
GRACE = 1.0
"""Seconds in which a connection that was just accepted can send its request."""
PERIOD = 0.05
"""Seconds between two checks of the folder."""


class RolloutGate:
    """The middleware of the gate. Without a folder it does nothing."""

    def __init__(self, app: App, folder: Path | None, guard: Guard) -> None:
        self._app = app
        self._folder = folder
        self._guard = guard
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._folder is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, self._gate_startup(send, self._folder))
        return await self._app(scope, receive, self._close_after_reply(send) if self._guard.leaving else send)

    def _gate_startup(self, send: Send, folder: Path) -> Send:
        async def gated(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                if not (folder / OPEN).exists():
                    self._guard.router.in_smoke_test = True
                    await self._serve_privately(folder)
                    self._guard.router.in_smoke_test = False
                self._watch = asyncio.create_task(self._follow(folder))
                uvicorn_shutdown.wait_for_requests(GRACE)
            await send(message)

        return gated

    async def _serve_privately(self, folder: Path) -> None:
        """Answer on a loopback port until the gate opens. Raises PlatformError if the worker is stopped before that."""
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
        aside.replace(place)  # readers never see a partial file
        while not serving.done() and not server.should_exit and not (folder / OPEN).exists():
            await asyncio.sleep(PERIOD)
        is_open = (folder / OPEN).exists()
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving
        place.unlink(missing_ok=True)
        if not is_open:
            raise PlatformError("stopped before the rollout gate was opened", where=str(folder))

    async def _follow(self, folder: Path) -> None:
        """Watch for `leaving`, and stop with the parent: the supervisor replaces a server whose main process died."""
        parent = os.getppid()
        while True:
            await asyncio.sleep(PERIOD)
            self._guard.leaving = (folder / LEAVING).exists()
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _close_after_reply(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        return closing
