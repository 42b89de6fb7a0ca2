"""Error budgets and burn rates of service level objectives, from counts of requests.

The alerts are those of Google's Site Reliability Workbook (Beyer et al., 2018), chapter 5, "Alerting on SLOs", section
"Multiwindow, Multi-Burn-Rate Alerts": each fires when a long window has burnt a share of the whole budget, and a short
one, a twelfth as long, says that it goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Alert:
    """`spent`: the share of the budget of the objective's whole window that `long` burns to raise it."""

    long: timedelta
    spent: float
    page: bool

    @property
    def short(self) -> timedelta:
        return self.long / 12

    def rate(self, window: timedelta) -> float:
        """The burn rate that burns `spent` in `long`: 14.4, 6 and 1 where the window is 30 days."""
        return self.spent * (window / self.long)


ALERTS = (
    Alert(timedelta(hours=1), 0.02, page=True),
    Alert(timedelta(hours=6), 0.05, page=True),
    Alert(timedelta(days=3), 0.10, page=False),
)
LEAST_BAD = 5
"""Fewer bad requests than this in the long window are no alert, whatever their share: one of three may be chance."""


@dataclass(frozen=True)
class RequestCounts:
    """Requests of a window, and those that broke the objective. `covered`: the share of the window that was seen."""

    total: float
    bad: float
    covered: float = 1.0

    @property
    def share(self) -> float:
        """Of bad requests; 0 where there were none at all."""
        return self.bad / self.total if self.total else 0.0


def burn_rate(counted: RequestCounts, objective: float) -> float:
    """How many times faster than evenly over the objective's window the budget is spent: 1 spends it exactly."""
    return counted.share / (1 - objective)


def budget_left(counted: RequestCounts, objective: float) -> float:
    """The share of the error budget that the requests of a window leave; below 0 where they broke the objective."""
    return 1 - burn_rate(counted, objective)


def fires(alert: Alert, long: RequestCounts, short: RequestCounts, objective: float, window: timedelta) -> bool:
    """Whether the alert is raised. What was not seen of the long window is taken to have burnt nothing: an hour's
    errors do not stand for three days."""
    rate = alert.rate(window)
    burnt = burn_rate(long, objective) * min(1.0, long.covered)
    return long.bad >= LEAST_BAD and burnt >= rate and burn_rate(short, objective) >= rate


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the observations lie, evenly spread within a bucket.

    buckets: (upper bound, observations up to it), rising, the last one's bound infinite. None for no observations; the
    highest finite bound where the quantile lies beyond it."""
    if not buckets or not buckets[-1][1]:
        return None
    wanted, lower, before = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted and count > before:
            within = (wanted - before) / (count - before)
            return lower if bound == float("inf") else lower + within * (bound - lower)
        lower, before = (lower if bound == float("inf") else bound), count
    return lower


def count_up_to(buckets: Sequence[tuple[float, float]], bound: float) -> float:
    """The observations up to a bound; those up to the bucket below it, where it is no bucket's own."""
    return max((count for upper, count in buckets if upper <= bound), default=0.0)
