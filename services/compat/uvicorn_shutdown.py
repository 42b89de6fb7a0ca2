"""uvicorn's shutdown, which closes connections whose request is still on its way.

What: `Server.shutdown` first closes the listening sockets and waits; then it runs as before.
Why: uvicorn closes a connection that has sent nothing yet, also if it was accepted a moment ago. Two servers on one
socket replace each other during a deployment, so such connections exist at each of them.
Without it: a deployment under load resets a few connections.
"""

import asyncio
import socket

import uvicorn

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"uvicorn": ("0.54.0",)},
    changes="replaces Server.shutdown by one that waits between the end of accepting and the end of connections",
    reason="uvicorn closes connections that were accepted a moment ago, and whose request is still on its way",
    upstream="https://github.com/Kludex/uvicorn/issues/2757",
    without="a deployment under load resets a few connections",
)


def wait_for_requests(seconds: float) -> None:
    """Make every server of this process stop accepting that many seconds before it closes idle connections."""
    if not PATCH.is_active():
        return
    shutdown = uvicorn.Server.shutdown

    async def finish(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(seconds)
        await shutdown(self, sockets)

    uvicorn.Server.shutdown = finish  # type: ignore[method-assign]
