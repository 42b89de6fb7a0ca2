"""Time ranges of the feature rows that changed source rows can affect."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_RANGES = 8
"""More ranges than this are merged across the smallest gaps: computing too much is correct, only slower."""


class TimeRange(NamedTuple):
    """A time range from `start` to `end`, inclusive, in microseconds since 1970 UTC."""

    start: int
    end: int

    def widen(self, before: timedelta, after: timedelta) -> "TimeRange":
        """Extend the range at both ends."""
        if self == ALWAYS:
            return ALWAYS
        return TimeRange(self.start - _microseconds(before), self.end + _microseconds(after))

    def moments(self) -> tuple[datetime, datetime]:
        """Start and end, naive UTC."""
        start, end = (_EPOCH + timedelta(microseconds=us) for us in self)
        return start.replace(tzinfo=None), end.replace(tzinfo=None)


ALWAYS = TimeRange(-(1 << 62), 1 << 62)


def ranges_around(times: np.ndarray[Any, Any], before: timedelta, after: timedelta) -> list[TimeRange]:
    """Ranges from `before` to `after` around each time (datetime64); overlapping ranges are merged."""
    moments = np.unique(times.astype("datetime64[us]").astype(np.int64))
    if not len(moments):
        return []
    starts, ends = moments - _microseconds(before), moments + _microseconds(after)
    cuts = np.flatnonzero(starts[1:] > ends[:-1])
    first, last = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(moments) - 1]])
    return [TimeRange(int(a), int(b)) for a, b in zip(starts[first], ends[last], strict=True)]


def merge_ranges(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """Merge overlapping ranges, and beyond _MAX_RANGES the nearest ones. The result is sorted and disjoint."""
    merged: list[TimeRange] = []
    for time_range in sorted(ranges):
        if merged and time_range.start <= merged[-1].end:
            merged[-1] = TimeRange(merged[-1].start, max(merged[-1].end, time_range.end))
        else:
            merged.append(time_range)
    if len(merged) <= _MAX_RANGES:
        return merged
    gaps = [after.start - before.end for before, after in pairwise(merged)]
    kept = sorted(sorted(range(len(gaps)), key=lambda i: gaps[i])[1 - _MAX_RANGES :])
    firsts, lasts = [0, *(i + 1 for i in kept)], [*kept, len(merged) - 1]
    return [TimeRange(merged[a].start, merged[b].end) for a, b in zip(firsts, lasts, strict=True)]


def intersect_ranges(these: Iterable[TimeRange], those: Iterable[TimeRange]) -> list[TimeRange]:
    """The intersection of two sets of ranges."""
    those = list(those)
    pairs = (TimeRange(max(a.start, b.start), min(a.end, b.end)) for a in these for b in those)
    return merge_ranges(time_range for time_range in pairs if time_range.start <= time_range.end)


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
