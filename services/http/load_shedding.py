"""Load shedding: the work of a worker, the expected wait of a new request, and whether that is too long.

A request is refused if its expected wait exceeds the limit, which is the setting or else the problem's latency
objective. The expected wait is the work ahead of the request, from recent requests of each kind, times a factor learned
from recent waits.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.http.exchange import Done, Exchange
from services.http.fair_queue import FairQueue

Clock = Callable[[], float]
REQUEST, BYTE = 50e-6, 20e-9
"""Expected seconds for a request and for a byte of its body, until one of its kind was answered."""
LEAST = 1e-6
"""Least expected seconds of a request."""
MEMORY = 100
"""Number of requests in the moving mean of a kind."""


@dataclass(slots=True)
class Kind:
    """Requests to one path with bodies of about the same length. `seconds`: expected work of one; `heavy`: whether the
    last one ran in a thread rather than in the event loop."""

    seconds: float
    heavy: bool = False
    answered: int = 0

    def learn(self, seconds: float) -> None:
        """Update the mean with one request's seconds, at most four times the mean: the machine may have been busy."""
        self.answered += 1
        within = min(max(seconds, LEAST), 4 * self.seconds)
        self.seconds += (within - self.seconds) / min(self.answered, MEMORY)


class Kinds:
    """Kinds by path and by the power of two of the body's length: the number of rows is unknown before parsing."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, int], Kind] = {}

    def of(self, path: str, length: int) -> Kind:
        key = path, length.bit_length()
        kind = self.kinds.get(key)
        if kind is None:
            kind = self.kinds[key] = Kind(REQUEST + BYTE * length)
        return kind


class Waits:
    """Predicts waits from the work ahead: real waits are longer by a factor, for reading, writing and other processes,
    and vary at random.

    The factor is learned by normalised least mean squares (Widrow and Hoff, 1960), and shrinks to 1 where waits are too
    short to be informative. The margin is twice the mean deviation, as in TCP's retransmission timeout (Jacobson,
    SIGCOMM 1988): 19 of 20 waits are shorter than work times factor plus margin."""

    SHORT = 0.01
    """Seconds."""

    def __init__(self) -> None:
        self.factor, self._deviation = 1.0, 0.0

    def expected(self, work: float, limit: float) -> float:
        """Expected wait in seconds. The margin is at most a quarter of the limit, however much waits vary."""
        return self.factor * work + min(2 * self._deviation, limit / 4)

    def learn(self, work: float, took: float) -> None:
        """Learn from a request with `work` seconds ahead, its own included, that was answered after `took` seconds."""
        error = took - self.factor * work
        self._deviation += (abs(error) - self._deviation) / 8
        change = error * work + (1 - self.factor) * self.SHORT**2 / 8
        self.factor = max(0.5, self.factor + change / (work**2 + self.SHORT**2) / 8)


@dataclass(slots=True, eq=False)
class Task:
    """A request whose body was received. `done` is called with its reply. `seconds`: expected work; `ahead`: seconds of
    work before it when it `came`."""

    exchange: Exchange
    body: bytes
    done: Done
    kind: Kind
    seconds: float
    ahead: float
    came: float


class Lane:
    """The work of the event loop, or of the threads. `running`: seconds of started work."""

    def __init__(self) -> None:
        self.queue: FairQueue[Task] = FairQueue()
        self.waits = Waits()
        self.running = 0.0

    def ahead(self, caller: str) -> float:
        return self.queue.ahead(caller) + self.running

    def fits(self, caller: str, limit: float) -> bool:
        """Whether the expected wait of a request of the caller is within the limit."""
        expected, total = self.waits.expected, self.queue.work + self.running
        return expected(total, limit) <= limit or expected(self.ahead(caller), limit) <= limit


class Load:
    """The load of a worker. `limit`: longest wait in seconds; 0 refuses no request."""

    REMEMBERED = 1.0
    """Seconds after a refusal for which the worker counts as overloaded."""

    def __init__(self, limit: Callable[[], float], clock: Clock = time.perf_counter) -> None:
        self.limit, self.clock = limit, clock
        self.kinds = Kinds()
        self.last_refusal = -math.inf
        self._round = 0.0
        self.light, self.heavy = Lane(), Lane()

    def admits(self, exchange: Exchange) -> bool:
        """Whether to accept a request; called with its header, before the body is read."""
        light, heavy = self.light, self.heavy
        if not (light.queue or heavy.queue or heavy.running):  # the usual case
            return True
        kind = self.kinds.of(exchange.path, _length(exchange))
        return self.fits(heavy if kind.heavy else light, exchange.caller)

    def fits(self, lane: Lane, caller: str) -> bool:
        limit = self.limit()
        if not limit or lane.fits(caller, limit - self._unread_wait(limit)):
            return True
        self.last_refusal = self.clock()
        return False

    def learn_turn(self, seconds: float) -> None:
        """Learn how long a turn of the event loop takes: a request waits at most so long before it is read."""
        self._round += (seconds - self._round) / 4

    def _unread_wait(self, limit: float) -> float:
        """Estimated seconds that a request waited before it was read."""
        return min(self._round, limit / 4)

    def put(self, exchange: Exchange, body: bytes, done: Done) -> None:
        kind = self.kinds.of(exchange.path, len(body))
        self.move(Task(exchange, body, done, kind, kind.seconds, 0.0, self.clock()), kind.heavy)

    def move(self, task: Task, heavy: bool) -> None:
        """Queue the task for the event loop, or for the threads if heavy."""
        lane, task.kind.heavy = self.heavy if heavy else self.light, heavy
        task.ahead = lane.ahead(task.exchange.caller)
        lane.queue.push(task.exchange.caller, task.seconds, task)

    def take(self, lane: Lane, seconds: float) -> tuple[list[Task], list[Task]]:
        """Take about `seconds` of work from a queue: the tasks to answer, and late tasks to refuse.

        While other requests are refused, tasks that waited longer than the limit give way to those still in time."""
        limit, now = self.limit(), self.clock()
        overloaded = limit and now - self.last_refusal <= self.REMEMBERED
        oldest = now - limit + self._unread_wait(limit) if overloaded else -math.inf
        taken: list[Task] = []
        late: list[Task] = []
        queue = lane.queue
        while queue and seconds > 0:
            task = queue.pop()
            if task.came < oldest:
                late.append(task)
            else:
                taken.append(task)
                seconds -= task.seconds
        return taken, late

    def learn(self, lane: Lane, tasks: list[Task], began: float) -> None:
        """Learn from tasks that were processed together since `began` and have their replies."""
        now = self.clock()
        ratio = (now - began) / sum(task.seconds for task in tasks)
        for task in tasks:
            task.kind.learn(task.seconds * ratio)
        last = max(tasks, key=_wait)
        lane.waits.learn(_wait(last), now - last.came)


def _wait(task: Task) -> float:
    return task.ahead + task.seconds


def _length(exchange: Exchange) -> int:
    """Length of the body by its header; 0 for a chunked body."""
    for name, value in exchange.scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


class Pace:
    """Paces refusals, since clients that retry at once would use all of the worker's time.

    The first AT_ONCE are sent at once, then as many as take SHARE of the time. Others are delayed, and their
    connections are not read until then."""

    SHARE, AT_ONCE = 0.1, 100
    LONGEST, TOGETHER = 5.0, 0.05
    """Seconds: longest delay, and interval at which delayed refusals are sent together, to wake the loop less often."""
    RELATIVE_COST = 10.0
    """Cost of a refusal relative to the processor time of reading its request: 6 to 12, measured under load with 1,000
    connections, for waiting, writing and system calls."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._kind = Kind(REQUEST / 2)
        self._next = -math.inf

    @property
    def rate(self) -> float:
        """Refusals per second."""
        return self.SHARE / (self.RELATIVE_COST * self._kind.seconds)

    def delay(self, began: float) -> float | None:
        """Seconds until a refusal may be sent, for a request that was read from `began` until now.

        None if too many wait: the connection is to be closed."""
        now = self.clock()
        self._kind.learn(now - began)
        following = max(self._next, now - self.AT_ONCE / self.rate) + 1 / self.rate
        if following > now + self.LONGEST:
            return None
        self._next = following
        if following <= now:
            return 0.0
        return math.ceil(following / self.TOGETHER) * self.TOGETHER - now
