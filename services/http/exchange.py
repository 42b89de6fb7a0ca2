"""One request and its answer, as the layers of the endpoint hand them on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
After = Callable[[], None]
Headers = tuple[tuple[bytes, bytes], ...]
JSON: Headers = ((b"content-type", b"application/json"),)
LAST = (b"connection", b"close")
"""The header of an answer that ends its connection."""
LOCAL = "truecourse.local"
"""The name by which a scope says whether its connection comes from this machine."""


class Exchange:
    """`begun`: by time.perf_counter(). `caller`: whose it is: the id of a key, or an address. `whole`: whether the body
    has come in. `refused`: whether it is to be refused. `status`: of the answer, 0 while there is none. `late`: whether
    it was given up for having taken too long. `gone`: whether nobody waits for the answer any more. `receive`: what is
    left of the body comes from there."""

    __slots__ = (
        "begun",
        "caller",
        "is_complete",
        "is_gone",
        "is_late",
        "is_refused",
        "path",
        "receive",
        "scope",
        "status",
    )
    receive: Receive

    def __init__(self, scope: Message) -> None:
        self.begun = time.perf_counter()
        self.scope, self.path = scope, scope["path"]
        self.caller = ""
        self.status = 0
        self.is_complete = self.is_late = self.is_gone = self.is_refused = False


class Reply(NamedTuple):
    """`after`: what is to be done once it is sent."""

    status: int
    body: bytes
    headers: Headers = JSON
    after: After | None = None

    @property
    def last(self) -> "Reply":
        """The same, as the last of its connection."""
        return self if LAST in self.headers else self._replace(headers=(*self.headers, LAST))

    async def send(self, send: Send, bare: bool) -> None:
        """`bare`: the headers alone, as HEAD asks for."""
        headers = (*self.headers, (b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bare else self.body})


Done = Callable[[Reply], None]


class Deadlines:
    """Gives up exchanges that take longer than so many seconds. One timer is kept for all of them: one for each would
    cost seven microseconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._open: dict[Exchange, Callable[[], object]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, exchange: Exchange, give_up: Callable[[], object]) -> None:
        """`give_up` is called when it is late. To begin again keeps the time that it began at."""
        self._open[exchange] = give_up
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._look)

    def end(self, exchange: Exchange) -> None:
        self._open.pop(exchange, None)

    def _look(self) -> None:
        """Give up what is late, and come back when the oldest of the others is."""
        now, self._timer, late = time.perf_counter(), None, []
        for exchange in self._open:
            left = exchange.begun + self.seconds - now
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._look)
                break
            late.append(exchange)
        given_up = [(exchange, self._open.pop(exchange)) for exchange in late]
        for exchange, give_up in given_up:
            exchange.is_late = exchange.is_gone = True
            give_up()
