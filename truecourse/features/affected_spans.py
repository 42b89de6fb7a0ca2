"""Spans of time: which feature rows a changed source row can touch."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIMIT = 8
"""More spans than this are joined across the smallest gaps: computing more is right, only slower."""


class TimeRange(NamedTuple):
    """From `start` to `end`, both included, in microseconds since 1970 UTC."""

    start: int
    end: int

    def widened(self, before: timedelta, after: timedelta) -> "TimeRange":
        return ALWAYS if self == ALWAYS else TimeRange(self.start - _us(before), self.end + _us(after))

    def moments(self) -> tuple[datetime, datetime]:
        """Naive UTC."""
        start, end = (_EPOCH + timedelta(microseconds=us) for us in self)
        return start.replace(tzinfo=None), end.replace(tzinfo=None)


ALWAYS = TimeRange(-(1 << 62), 1 << 62)


def around(times: np.ndarray[Any, Any], before: timedelta, after: timedelta) -> list[TimeRange]:
    """The spans from `before` to `after` each of the times (datetime64), joined where they meet."""
    moments = np.unique(times.astype("datetime64[us]").astype(np.int64))
    if not len(moments):
        return []
    starts, ends = moments - _us(before), moments + _us(after)
    cuts = np.flatnonzero(starts[1:] > ends[:-1])
    first, last = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(moments) - 1]])
    return [TimeRange(int(a), int(b)) for a, b in zip(starts[first], ends[last], strict=True)]


def merge_ranges(spans: Iterable[TimeRange]) -> list[TimeRange]:
    """The same time in few spans, sorted and apart."""
    merged: list[TimeRange] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = TimeRange(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    if len(merged) <= _LIMIT:
        return merged
    gaps = [after.start - before.end for before, after in pairwise(merged)]
    kept = sorted(sorted(range(len(gaps)), key=lambda i: gaps[i])[1 - _LIMIT :])
    firsts, lasts = [0, *(i + 1 for i in kept)], [*kept, len(merged) - 1]
    return [TimeRange(merged[a].start, merged[b].end) for a, b in zip(firsts, lasts, strict=True)]


def overlap(these: Iterable[TimeRange], those: Iterable[TimeRange]) -> list[TimeRange]:
    """The time in both."""
    those = list(those)
    pairs = (TimeRange(max(a.start, b.start), min(a.end, b.end)) for a in these for b in those)
    return merge_ranges(span for span in pairs if span.start <= span.end)


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
