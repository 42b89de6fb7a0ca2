"""Error budgets and burn rates of service level objectives, from counts of requests.

The alerts are those of Google's Site Reliability Workbook (Beyer et al., 2018), chapter 5, "Alerting on SLOs", section
"Multiwindow, Multi-Burn-Rate Alerts". An alert fires when a long window has spent a share of the whole budget, and a
short window, a twelfth as long, shows that it still burns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Alert:
    """A burn-rate alert. `spent`: the share of the objective's budget that must be spent within `long` to raise it."""

    long: timedelta
    spent: float
    page: bool

    @property
    def short(self) -> timedelta:
        return self.long / 12

    def rate(self, window: timedelta) -> float:
        """Return the burn rate that spends `spent` in `long`: 14.4, 6 and 1 for a window of 30 days."""
        return self.spent * (window / self.long)


ALERTS = (
    Alert(timedelta(hours=1), 0.02, page=True),
    Alert(timedelta(hours=6), 0.05, page=True),
    Alert(timedelta(days=3), 0.10, page=False),
)
LEAST_BAD = 5
"""Bad requests in the long window that an alert needs, whatever their share: one of three may be chance."""


@dataclass(frozen=True)
class RequestCounts:
    """Requests of a window, and those that missed the objective. `covered`: the share of the window with scrapes."""

    total: float
    bad: float
    covered: float = 1.0

    @property
    def share(self) -> float:
        """The share of bad requests; 0 if there were no requests."""
        return self.bad / self.total if self.total else 0.0


def burn_rate(counted: RequestCounts, objective: float) -> float:
    """Return the burn rate: 1 spends the budget exactly over the objective's window, 2 in half of it."""
    return counted.share / (1 - objective)


def budget_left(counted: RequestCounts, objective: float) -> float:
    """Return the share of the error budget that is left; below 0 if the objective is missed."""
    return 1 - burn_rate(counted, objective)


def fires(alert: Alert, long: RequestCounts, short: RequestCounts, objective: float, window: timedelta) -> bool:
    """Return whether the alert fires.

    The part of the long window without scrapes counts as error-free: one hour's errors do not stand for three days."""
    rate = alert.rate(window)
    burned = burn_rate(long, objective) * min(1.0, long.covered)
    return long.bad >= LEAST_BAD and burned >= rate and burn_rate(short, objective) >= rate


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Estimate the quantile `share` (0 to 1) from a histogram, by linear interpolation within a bucket.

    buckets: (upper bound, observations up to it), rising; the last bound is infinite. Returns None without
    observations, and the highest finite bound if the quantile is above it."""
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
    """Count the observations up to a bound; if it is not a bucket's bound, up to the next lower bucket."""
    return max((count for upper, count in buckets if upper <= bound), default=0.0)
