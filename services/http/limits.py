"""Rate limits of the endpoint by caller."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from truecourse.settings import Settings

Clock = Callable[[], float]


def per_worker(settings: Settings) -> Settings:
    """Divide the limits by the number of workers: workers share no memory, and the kernel distributes connections.

    A burst smaller than the number of workers leaves each of them one request."""
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
    """A token bucket for each caller: `burst` tokens, refilled at `rate` a second. A rate of 0 is no limit.

    At most `most` callers are kept. The longest idle is dropped first: its bucket is full again, unless more than
    `most` callers came within the time that a bucket takes to fill."""

    def __init__(self, rate: float, burst: int, most: int = 10_000, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, caller: str) -> float:
        """Take a token: 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, last_use = self._levels.pop(caller, (float(self._burst), now))
        level = min(self._burst, level + (now - last_use) * self._rate)
        left = level - 1 if level >= 1 else level
        self._levels[caller] = (left, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if level >= 1 else (1 - level) / self._rate
