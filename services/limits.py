"""How much the endpoint takes on: a rate for each caller, and no more in all than it can answer in time."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from truecourse.settings import Settings

Clock = Callable[[], float]


def per_worker(settings: Settings) -> Settings:
    """The settings of each of several workers, so that all of them together grant a caller no more than is promised:
    workers share no memory, and the kernel deals connections out to them. A burst of fewer requests than there are
    workers leaves each of them one."""
    count = settings.workers
    return settings.model_copy(
        update={"rate_limit": settings.rate_limit / count, "rate_burst": max(1, settings.rate_burst // count)}
    )


class Buckets:
    """A token bucket for each caller: `burst` tokens, filled up again by `rate` a second. A rate of 0 limits nobody.

    At most `most` are remembered. The one that has been quiet for longest is forgotten first, which gives it a full
    bucket: exactly what it has earned, unless more than `most` callers came within the time that a bucket fills in."""

    def __init__(self, rate: float, burst: int, most: int = 10_000, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, caller: str) -> float:
        """Take a token: 0, or the seconds until there will be one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, seen = self._levels.pop(caller, (float(self._burst), now))
        level = min(self._burst, level + (now - seen) * self._rate)
        left = level - 1 if level >= 1 else level
        self._levels[caller] = (left, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if level >= 1 else (1 - level) / self._rate


class Shedder:
    """Refuses, under overload, what would wait too long for its turn: the method of controlled delay of Nichols and
    Jacobson (CoDel, ACM Queue 2012) as Maurer applies it to servers (Fail at Scale, ACM Queue 2015).

    Requests wait for the one event loop of a worker. A *turn* is a run of requests that the loop takes up with no
    pause between them; how far into it a request is taken up is how long it has waited. Behind a turn of some length
    all of that passed, at worst, before the request could be read at all. What threads work on comes on top.

    A burst is no overload: where the queue has been empty within INTERVAL a request may wait INTERVAL. If it has not,
    the queue is a standing one, and only requests that waited less than `limit` seconds are taken on. So it stays until
    none has been refused for INTERVAL: refusals are quick, and under overload the queue is empty now and then.
    """

    INTERVAL = 0.1
    """Seconds."""
    THREADS = 2
    """So many requests at work outside the loop are no queue."""

    def __init__(self, limit: float, clock: Clock = time.monotonic) -> None:
        self._limit, self.clock = limit, clock
        self._began: float | None = None
        self._before = 0.0
        self._empty = self._ended = clock()
        self._idle = True
        self._refused = -math.inf
        self._working, self._service = 0, 0.0

    def wait(self) -> float:
        """Seconds that a request taken up now is thought to have waited, and to wait."""
        now = self.clock()
        if self._began is None:
            self._began = now
            if self._idle:  # with nothing to take up the queue was empty until now, however long that was
                self._empty, self._idle = now, False
        return now - self._began + self._before + self._working * self._service

    def admits(self, alone: bool = False) -> bool:
        """`alone`: neither this turn nor the one before took up another. Then nothing queued, if nothing is at work,
        however long other threads kept the loop from coming round."""
        waited, now = self.wait(), self.clock()
        burst = now - self._empty <= self.INTERVAL < now - self._refused
        admitted = not self._limit or waited <= (max(self._limit, self.INTERVAL) if burst else self._limit)
        admitted |= alone and not self._working
        if not admitted:
            self._refused = now
        return admitted

    def turn_over(self) -> None:
        """The loop has come round: what was taken up together is done."""
        if self._began is not None:
            self._before = self.clock() - self._began
            self._began = None

    def quiet(self) -> None:
        """The loop found nothing to take up."""
        if self._began is None and self._working <= self.THREADS:
            self._before, self._empty, self._idle = 0.0, self.clock(), True

    def taken(self) -> None:
        """A request has come in whole."""
        self._working += 1

    def left(self) -> None:
        """One that had come in whole is answered, or given up."""
        self._working -= 1

    def worked(self, began: float, requests: int = 1) -> None:
        """So many were worked on since `began`, by the shedder's clock: a moving mean of a hundred."""
        now = self.clock()
        # Of requests worked on side by side, each is charged the time since the last was done.
        took, self._ended = now - max(self._ended, began), now
        self._service += (1 - 0.99**requests) * (took / requests - self._service)


class Turns:
    """Tells a shedder of the turns of the running event loop, without a timer of its own, and how many requests come
    in one."""

    QUIET = 2
    """Turns until the loop is thought quiet, the request's own among them: in the other it looked for more."""

    def __init__(self, shedder: Shedder) -> None:
        self.shedder = shedder
        self.when_full: Callable[[], None] = lambda: None
        """To be called when a request of the running turn was refused: those after it will be too."""
        self._watching = False
        self._left = 0
        self._begun = self._before = 0

    @property
    def crowded(self) -> bool:
        """Whether the running turn took up several requests, or the last one that took up any, if that was just now."""
        return self._begun > 1 or self._before > 1

    def begin(self) -> None:
        """A request is taken up."""
        self._left = self.QUIET
        self._begun += 1
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.shedder.turn_over()
        self._begun, self._before = 0, self._begun or self._before
        self._left -= 1
        if self._left:
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._watching, self._before = False, 0
            self.shedder.quiet()
