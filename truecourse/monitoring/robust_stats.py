"""Robust statistics of past values: medians and ranges, which a few outliers do not move."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

MIN_HISTORY = 7
"""Past values needed for a comparison; a week of a daily feed."""
_DEVIATIONS = 5.0
_NORMAL = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations."""
LATE_FACTOR = 1.5
"""A feed is late once its gap exceeds the longest past gap by this factor."""


def is_unusual(value: float, past: Sequence[float], factor: float, margin: float = 0.0) -> bool:
    """Whether a value lies outside the past values by enough to matter.

    Statistically: beyond every past value, and more than five robust standard deviations (scaled median absolute
    deviations) from the median. Practically: above `factor` times the median or below 1 / `factor` of it, and more than
    `margin` away from it. Always false with fewer than LEAST past values."""
    if len(past) < MIN_HISTORY:
        return False
    middle = median(past)
    spread = _NORMAL * median(abs(one - middle) for one in past)
    beyond = value > max(past) or value < min(past)
    enough = value > factor * middle or value < middle / factor
    return beyond and enough and abs(value - middle) > max(_DEVIATIONS * spread, margin)


def longest_gap(moments: Sequence[datetime]) -> timedelta | None:
    """Return the longest gap between consecutive `moments` (sorted); None with fewer than LEAST gaps."""
    gaps = [after - before for before, after in pairwise(moments)]
    return max(gaps) if len(gaps) >= MIN_HISTORY else None
