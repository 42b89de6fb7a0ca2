"""How much the endpoint takes on of each caller."""

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
    count, each = settings.workers, settings.max_connections_per_address
    return settings.model_copy(
        update={
            "rate_limit": settings.rate_limit / count,
            "rate_burst": max(1, settings.rate_burst // count),
            "max_connections": math.ceil(settings.max_connections / count),
            "max_connections_per_address": math.ceil(each / count),
        }
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
