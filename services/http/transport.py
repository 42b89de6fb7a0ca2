"""Connections of a worker: their number, and limits on the time and size of incoming requests.

The guard's limits (services/http/request_guard.py) apply once a request is known. These bound what occupies a worker
before that, or without ever sending a request, of any caller: bytes of a header; seconds of a TLS handshake, a header,
a body and the pause between requests; connections in total and by address.
"""

import asyncio
import heapq
import logging
import resource
from collections.abc import Collection
from typing import Any, Protocol

from services.http import peers
from services.telemetry.prometheus_metrics import Metrics
from truecourse.settings import Settings

log = logging.getLogger("truecourse.serving")
RESERVED = 256
"""Open files besides connections: models, logs, the store."""
PART = 16
"""With too many connections, a sixteenth of the waiting ones is closed at once, since a search takes time."""
CHECKS = 4
"""Checks within the shortest time limit of a connection, but at least one in PERIOD seconds."""
PERIOD = 1.0


class Connection(Protocol):
    """A connection. `deadline`: when it expires, by the event loop's clock. `rank`: 0 before a request, 1 while a
    header arrives, 2 while a body arrives, None while a request is answered. `is_stuck`: written data, or the close,
    waits for the client."""

    deadline: float

    @property
    def rank(self) -> int | None: ...
    @property
    def is_stuck(self) -> bool: ...
    def expire(self) -> None: ...
    def drop(self) -> None: ...


class Connections:
    """The open connections of this worker, and their limits. Times are in seconds."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.header_bytes = settings.header_limit * 1024
        self.header_seconds = settings.header_timeout
        self.body_seconds = float(settings.request_timeout)
        self.idle_seconds = float(settings.keep_alive)
        self.most = settings.max_connections
        self.most_of_one = settings.max_connections_per_address
        self._trusted = peers.parse_networks(settings.trusted_proxies)
        self._metrics = metrics
        self.current: dict[Connection, str] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._stuck: dict[Connection, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 0.0

    def __len__(self) -> int:
        return len(self.current)

    def reserve_files(self) -> None:
        """Raise the process's limit of open files; where the system refuses, lower the number of connections."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.most + RESERVED
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            most = max(1, allowed - RESERVED)
            log.warning("the limit of %d open files allows %d connections, not %d", allowed, most, self.most)
            self.most = most

    def open(self, connection: Connection, peer: Any) -> bool:
        """Accept and count a new connection; False if there are too many that are being answered.

        Otherwise the one that has waited longest is closed: of the same address, or of the address with the most."""
        self._watch()
        address = peers.counted_as(peer)
        own = self._by_address.get(address, {})
        bounded = self.most_of_one and not peers.is_within(peer, self._trusted)
        if bounded and len(own) >= self.most_of_one and not self._make_room(own):
            return False
        if len(self.current) >= self.most and not self._make_room(max(self._by_address.values(), key=len)):
            return False
        self.current[connection] = address
        self._by_address.setdefault(address, {})[connection] = None
        return True

    def close(self, connection: Connection) -> None:
        """Stop counting a connection. Calling it twice is safe."""
        address = self.current.pop(connection, None)
        self._stuck.pop(connection, None)
        if address is not None:
            own = self._by_address[address]
            del own[connection]
            if not own:
                del self._by_address[address]

    def _make_room(self, among: Collection[Connection]) -> bool:
        waiting = [(one.rank, one.deadline, place, one) for place, one in enumerate(among) if one.rank is not None]
        chosen = heapq.nsmallest(max(1, len(among) // PART), waiting)
        for *_, connection in chosen:
            self.close(connection)
            self._metrics.count_refusal("connections")
            connection.drop()
        return bool(chosen)

    def _watch(self) -> None:
        """Start checking for expired connections; checks stop when none is open."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._next = loop, 0.0
            self._schedule_check(loop)

    def _schedule_check(self, loop: asyncio.AbstractEventLoop) -> None:
        period = min(PERIOD, *(s / CHECKS for s in (self.header_seconds, self.body_seconds, self.idle_seconds)))
        self._next = loop.time() + period
        loop.call_later(period, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = now - self._next > PERIOD  # the loop was blocked: data of clients has not been read yet
        if self.current:
            self._schedule_check(loop)
        else:
            self._loop = None
        for connection in list(self.current) if not late else ():
            if connection.deadline <= now:
                connection.expire()
            elif connection.is_stuck:
                if now > self._stuck.setdefault(connection, now) + self.body_seconds:
                    connection.drop()
            elif self._stuck:
                self._stuck.pop(connection, None)
