"""The connections of a worker: how many there may be, and how long and how large a request may be on its way.

Limits of requests (services/http/guard.py) begin where a request is known. What holds a worker before that, or without
ever sending one, is bounded here, for every request alike, whoever answers it: the bytes of a header, the time that a
TLS handshake, a header and a body take, the pause between two requests, connections in all and of one address.
"""

import asyncio
import heapq
import logging
import resource
from collections.abc import Collection
from typing import Any, Protocol

from services.http import peers
from services.telemetry.metrics import Metrics
from truecourse.settings import Settings

log = logging.getLogger("truecourse.serving")
RESERVED = 256
"""Open files that are no connections: models, logs, the store."""
PART = 16
"""Where there are too many connections, a sixteenth of those that wait for their client is closed at once: to look for
them takes as long for many as for one."""
LOOKS = 4
"""So many looks at the connections in the shortest of the times that they are held to, but one in PERIOD at least."""
PERIOD = 1.0


class Connection(Protocol):
    """`deadline`: the moment of the event loop's clock at which it expires. `rank`: 0 for one that has sent nothing of
    a request, 1 for one whose header is on its way, 2 whose body is, None for one that is being answered. `is_stuck`:
    what was written to it, or its end, waits for the client."""

    deadline: float

    @property
    def rank(self) -> int | None: ...
    @property
    def is_stuck(self) -> bool: ...
    def expire(self) -> None: ...
    def drop(self) -> None: ...


class Connections:
    """The open connections of this worker, and what they are held to. Times are in seconds."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.header_bytes = settings.header_limit * 1024
        self.header_seconds = settings.header_timeout
        self.body_seconds = float(settings.request_timeout)
        self.idle_seconds = float(settings.keep_alive)
        self.most = settings.max_connections
        self.most_of_one = settings.max_connections_per_address
        self._trusted = peers.parse_networks(settings.trusted_proxies)
        self._metrics = metrics
        self._open: dict[Connection, str] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._stuck: dict[Connection, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def reserve_files(self) -> None:
        """Have the system let this process open as many files; where it allows fewer, there may be no more."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.most + RESERVED
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            most = max(1, allowed - RESERVED)
            log.warning("%d open files are allowed, and so %d connections rather than %d", allowed, most, self.most)
            self.most = most

    def open(self, connection: Connection, peer: Any) -> bool:
        """Count a new connection, unless there are too many that are being answered. Of the others the one that has
        waited longest makes room: of its own address, or of the one that has the most."""
        self._watch()
        address = peers.counted_as(peer)
        own = self._by_address.get(address, {})
        bounded = self.most_of_one and not peers.is_within(peer, self._trusted)
        if bounded and len(own) >= self.most_of_one and not self._make_room(own):
            return False
        if len(self._open) >= self.most and not self._make_room(max(self._by_address.values(), key=len)):
            return False
        self._open[connection] = address
        self._by_address.setdefault(address, {})[connection] = None
        return True

    def close(self, connection: Connection) -> None:
        """It is closed, or about to be. To close it again changes nothing."""
        address = self._open.pop(connection, None)
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
        """Begin to look for what expires; it ends when nothing is open."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._next = loop, 0.0
            self._schedule_look(loop)

    def _schedule_look(self, loop: asyncio.AbstractEventLoop) -> None:
        period = min(PERIOD, *(s / LOOKS for s in (self.header_seconds, self.body_seconds, self.idle_seconds)))
        self._next = loop.time() + period
        loop.call_later(period, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = now - self._next > PERIOD  # we did not run: what clients sent meanwhile is not read yet
        if self._open:
            self._schedule_look(loop)
        else:
            self._loop = None
        for connection in list(self._open) if not late else ():
            if connection.deadline <= now:
                connection.expire()
            elif connection.is_stuck:
                if now > self._stuck.setdefault(connection, now) + self.body_seconds:
                    connection.drop()
            elif self._stuck:
                self._stuck.pop(connection, None)
