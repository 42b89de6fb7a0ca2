"""A request and its reply, as the layers of the endpoint pass them on."""

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
"""The header of a reply that closes its connection."""
LOCAL = "truecourse.local"
"""The key of a scope that holds whether the connection comes from this machine."""
ANSWERING = "truecourse.answering"
"""The key of a scope that holds the exchange while the application answers it."""


FEATURES = "/features/{area}/{view}"
"""The route of pushed rows."""


def route_of(path: str) -> str:
    """The route of a path: the path itself, except for pushed rows."""
    return FEATURES if path.startswith("/features/") and path.count("/") == 3 else path


class Exchange:
    """One request. `path`: its route. `started`: by time.perf_counter(). `caller`: id of the API key, or address.
    `holder`: id of the API key, empty where none is required. `status`: of the reply, 0 before there is one.
    `is_complete`: the body was received. `is_refused`: it will be refused. `is_late`: it took too long and was given
    up. `is_gone`: the client has disconnected. `receive`: yields the rest of the body."""

    __slots__ = (
        "caller", "holder", "is_complete", "is_gone", "is_late", "is_refused", "path", "receive", "scope", "started",
        "status",
    )  # fmt: skip
    receive: Receive

    def __init__(self, scope: Message) -> None:
        self.started = time.perf_counter()
        self.scope, self.path = scope, route_of(scope["path"])
        self.caller = self.holder = ""
        self.status = 0
        self.is_complete = self.is_late = self.is_gone = self.is_refused = False


class Reply(NamedTuple):
    """A response. `after`: called once it is sent."""

    status: int
    body: bytes
    headers: Headers = JSON
    after: After | None = None

    @property
    def last(self) -> "Reply":
        """The reply with a header that closes the connection."""
        return self if LAST in self.headers else self._replace(headers=(*self.headers, LAST))

    async def send(self, send: Send, bare: bool) -> None:
        """Send the reply. `bare`: headers only, for HEAD."""
        headers = (*self.headers, (b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bare else self.body})


Done = Callable[[Reply], None]


class Deadlines:
    """Gives up exchanges that take longer than `seconds`. All share a timer: one each would cost seven microseconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._open: dict[Exchange, Callable[[], object]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of exchanges in progress."""
        return len(self._open)

    def begin(self, exchange: Exchange, give_up: Callable[[], object]) -> None:
        """Watch an exchange; `give_up` is called when it is late. A second call keeps the first start time."""
        self._open[exchange] = give_up
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._look)

    def end(self, exchange: Exchange) -> None:
        self._open.pop(exchange, None)

    def _look(self) -> None:
        """Give up late exchanges, and set the timer for the oldest of the others."""
        now, self._timer, late = time.perf_counter(), None, []
        for exchange in self._open:
            left = exchange.started + self.seconds - now
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._look)
                break
            late.append(exchange)
        given_up = [(exchange, self._open.pop(exchange)) for exchange in late]
        for exchange, give_up in given_up:
            exchange.is_late = exchange.is_gone = True
            give_up()
