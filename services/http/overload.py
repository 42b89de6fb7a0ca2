"""What a worker has to do, how long a request that comes now would wait for its turn, and whether that is too long.

A request is refused where its expected wait is longer than the limit, which is the problem's latency objective unless
it is set. The expected wait is the work that comes before it, by what requests of its kind took lately, corrected by
how long such waits took lately.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.http.exchange import Done, Exchange
from services.http.fair_queue import FairQueue

Clock = Callable[[], float]
REQUEST, BYTE = 50e-6, 20e-9
"""Seconds that a request and a byte of its body are expected to take until one of its kind was answered."""
LEAST = 1e-6
"""Seconds that any request is thought to take."""
MEMORY = 100
"""So many requests make up the moving mean of a kind."""


@dataclass(slots=True)
class Kind:
    """Requests to one path whose bodies are about as long. `seconds`: what one of them takes. `heavy`: whether the last
    was worked on by a thread rather than in the event loop."""

    seconds: float
    heavy: bool = False
    answered: int = 0

    def learn(self, seconds: float) -> None:
        """One took so many. Where it is far more than the others took, the machine did something else meanwhile."""
        self.answered += 1
        within = min(max(seconds, LEAST), 4 * self.seconds)
        self.seconds += (within - self.seconds) / min(self.answered, MEMORY)


class Kinds:
    """By path and the power of two of the body's length: how many rows there are is not known before they are read."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int], Kind] = {}

    def of(self, path: str, length: int) -> Kind:
        key = path, length.bit_length()
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = Kind(REQUEST + BYTE * length)
        return kind


class Waits:
    """How long requests wait that have so much work before them: longer than the work is reckoned to take, for reading
    and writing, other threads and other processes, by a factor; and then by chance.

    The factor is learned by normalised least mean squares (Widrow and Hoff, 1960), drawn towards 1 by waits that are
    too short to tell; the margin is twice the mean deviation, as TCP reckons when an answer is overdue (Jacobson,
    SIGCOMM 1988): nineteen in twenty waits are shorter than the factor and the margin say."""

    SHORT = 0.01
    """Seconds."""

    def __init__(self) -> None:
        self.factor, self._deviation = 1.0, 0.0

    def expected(self, work: float, limit: float) -> float:
        """Seconds. However much waits vary, a queue that is over in three quarters of the limit is short enough."""
        return self.factor * work + min(2 * self._deviation, limit / 4)

    def learn(self, work: float, took: float) -> None:
        """A request had so many seconds of work before it, its own among them, and was answered after so many."""
        error = took - self.factor * work
        self._deviation += (abs(error) - self._deviation) / 8
        change = error * work + (1 - self.factor) * self.SHORT**2 / 8
        self.factor = max(0.5, self.factor + change / (work**2 + self.SHORT**2) / 8)


@dataclass(slots=True, eq=False)
class Task:
    """A request that came in whole. `done` is called with its reply. `seconds`: what it is expected to take, `ahead`:
    what came before it when it `came`."""

    exchange: Exchange
    body: bytes
    done: Done
    kind: Kind
    seconds: float
    ahead: float
    came: float


class Lane:
    """What the event loop does, or what threads do. `running`: seconds of the work that was begun."""

    def __init__(self) -> None:
        self.queue: FairQueue[Task] = FairQueue()
        self.waits = Waits()
        self.running = 0.0

    def ahead(self, caller: str) -> float:
        return self.queue.ahead(caller) + self.running

    def fits(self, caller: str, limit: float) -> bool:
        """Whether a request of the caller is expected to wait no longer than the limit."""
        expected, all_of_it = self.waits.expected, self.queue.work + self.running
        return expected(all_of_it, limit) <= limit or expected(self.ahead(caller), limit) <= limit


class Load:
    """`limit`: seconds that a request may wait; 0 refuses nobody."""

    REMEMBERED = 1.0
    """Seconds after a refusal in which the worker counts as overloaded."""

    def __init__(self, limit: Callable[[], float], clock: Clock = time.perf_counter) -> None:
        self._limit, self.clock = limit, clock
        self._kinds = Kinds()
        self._refused = -math.inf
        self._round = 0.0
        self.light, self.heavy = Lane(), Lane()

    def admits(self, exchange: Exchange) -> bool:
        """Asked when the header is there, before the body is read."""
        light, heavy = self.light, self.heavy
        if not (light.queue or heavy.queue or heavy.running):  # as nearly always
            return True
        kind = self._kinds.of(exchange.path, _length(exchange))
        return self.fits(heavy if kind.heavy else light, exchange.caller)

    def fits(self, lane: Lane, caller: str) -> bool:
        limit = self._limit()
        if not limit or lane.fits(caller, limit - self._unread_wait(limit)):
            return True
        self._refused = self.clock()
        return False

    def learn_turn(self, seconds: float) -> None:
        """The event loop has read what had come and done its turn of work: so long, at worst, did a request wait that
        has not been read yet."""
        self._round += (seconds - self._round) / 4

    def _unread_wait(self, limit: float) -> float:
        """Seconds that a request is thought to have waited before it was read."""
        return min(self._round, limit / 4)

    def put(self, exchange: Exchange, body: bytes, done: Done) -> None:
        kind = self._kinds.of(exchange.path, len(body))
        self.move(Task(exchange, body, done, kind, kind.seconds, 0.0, self.clock()), kind.heavy)

    def move(self, task: Task, heavy: bool) -> None:
        """Into the one queue or the other, where it waits from now on."""
        lane, task.kind.heavy = self.heavy if heavy else self.light, heavy
        task.ahead = lane.ahead(task.exchange.caller)
        lane.queue.push(task.exchange.caller, task.seconds, task)

    def take(self, lane: Lane, seconds: float) -> tuple[list[Task], list[Task]]:
        """What is to be answered next, for about so many seconds, and what is to be refused though it was let in: while
        others are refused, what waited longer than the limit gives way to what can still be in time."""
        limit, now = self._limit(), self.clock()
        overloaded = limit and now - self._refused <= self.REMEMBERED
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
        """They were worked on together since `began`, and have their replies."""
        now = self.clock()
        ratio = (now - began) / sum(task.seconds for task in tasks)
        for task in tasks:
            task.kind.learn(task.seconds * ratio)
        last = max(tasks, key=_wait)
        lane.waits.learn(_wait(last), now - last.came)


def _wait(task: Task) -> float:
    return task.ahead + task.seconds


def _length(exchange: Exchange) -> int:
    """The body's, as the header tells it; 0 where it comes in chunks."""
    for name, value in exchange.scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


class Pace:
    """Spreads refusals: a client that asks again as soon as it is refused would have the worker do nothing else. So
    many at once are refused at once, and after that as many as take SHARE of the time; others get theirs when it is
    their turn, and are not read from until then."""

    SHARE, AT_ONCE = 0.1, 100
    LONGEST, TOGETHER = 5.0, 0.05
    """Seconds. Those that wait are sent together, so many seconds apart: by itself each would wake the loop."""
    BESIDES = 10.0
    """How many times the processor time of reading the request a refusal takes: measured under load, with 1,000
    connections, it is 6 to 12 times as long, for holding, waking, writing and the calls of the system."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._kind = Kind(REQUEST / 2)
        self._next = -math.inf

    @property
    def rate(self) -> float:
        """Refusals a second."""
        return self.SHARE / (self.BESIDES * self._kind.seconds)

    def delay(self, began: float) -> float | None:
        """Seconds until the next refusal may be sent, of a request that was read from `began` until now. None where too
        many wait: then the connection is to be closed."""
        now = self.clock()
        self._kind.learn(now - began)
        following = max(self._next, now - self.AT_ONCE / self.rate) + 1 / self.rate
        if following > now + self.LONGEST:
            return None
        self._next = following
        if following <= now:
            return 0.0
        return math.ceil(following / self.TOGETHER) * self.TOGETHER - now
