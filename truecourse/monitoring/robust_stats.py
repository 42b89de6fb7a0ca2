"""What is usual, learned from a thing's own past: medians and ranges, which a few odd values do not move."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

MIN_HISTORY = 7
"""Fewer past values say nothing: of a daily feed, a week."""
_DEVIATIONS = 5.0
_NORMAL = 1.4826
"""A normal distribution's standard deviation is so many times its median absolute deviation."""
LATE_FACTOR = 1.5
"""Something is late once it took this much longer than it ever did."""


def is_unusual(value: float, past: Sequence[float], factor: float, margin: float = 0.0) -> bool:
    """Whether a value is out of all that was seen, and by enough to matter.

    Statistically: beyond every past value, and more than five robust standard deviations (median absolute deviations,
    scaled) from their median. Practically: more than `factor` times the median, or less than the median by that
    factor, and at least `margin` away from it. Never, with fewer than LEAST past values."""
    if len(past) < MIN_HISTORY:
        return False
    middle = median(past)
    spread = _NORMAL * median(abs(one - middle) for one in past)
    beyond = value > max(past) or value < min(past)
    enough = value > factor * middle or value < middle / factor
    return beyond and enough and abs(value - middle) > max(_DEVIATIONS * spread, margin)


def longest_gap(moments: Sequence[datetime]) -> timedelta | None:
    """The longest time between two neighbours (rising); None with fewer than LEAST gaps."""
    gaps = [after - before for before, after in pairwise(moments)]
    return max(gaps) if len(gaps) >= MIN_HISTORY else None
