"""Spans of time: which feature rows a changed source row can touch."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIMIT = 8
"""More spans than this are joined across the smallest gaps: computing more is right, only slower."""


class Span(NamedTuple):
    """From `start` to `end`, both included, in microseconds since 1970 UTC."""

    start: int
    end: int

    def widened(self, before: timedelta, after: timedelta) -> "Span":
        return ALWAYS if self == ALWAYS else Span(self.start - _us(before), self.end + _us(after))

    def moments(self) -> tuple[datetime, datetime]:
        """Naive UTC."""
        start, end = (_EPOCH + timedelta(microseconds=us) for us in self)
        return start.replace(tzinfo=None), end.replace(tzinfo=None)


ALWAYS = Span(-(1 << 62), 1 << 62)


def around(times: np.ndarray[Any, Any], before: timedelta, after: timedelta) -> list[Span]:
    """The spans from `before` to `after` each of the times (datetime64), joined where they meet."""
    moments = np.unique(times.astype("datetime64[us]").astype(np.int64))
    if not len(moments):
        return []
    starts, ends = moments - _us(before), moments + _us(after)
    cuts = np.flatnonzero(starts[1:] > ends[:-1])
    first, last = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(moments) - 1]])
    return [Span(int(a), int(b)) for a, b in zip(starts[first], ends[last], strict=True)]


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same time in few spans, sorted and apart."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    if len(merged) <= _LIMIT:
        return merged
    gaps = [after.start - before.end for before, after in pairwise(merged)]
    kept = sorted(sorted(range(len(gaps)), key=lambda i: gaps[i])[1 - _LIMIT :])
    firsts, lasts = [0, *(i + 1 for i in kept)], [*kept, len(merged) - 1]
    return [Span(merged[a].start, merged[b].end) for a, b in zip(firsts, lasts, strict=True)]


def overlap(these: Iterable[Span], those: Iterable[Span]) -> list[Span]:
    """The time in both."""
    those = list(those)
    pairs = (Span(max(a.start, b.start), min(a.end, b.end)) for a in these for b in those)
    return joined(span for span in pairs if span.start <= span.end)


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
