"""Compiled sweeps over the rows and decisions of each key. Import it lazily: importing Numba takes a quarter of a
second.

Row r counts at times t with starts[r] <= t < ends[r]. Rows are sorted by key; `by_start` and `by_end` list the rows of
each key by start and by end. `times` are those of the decisions, sorted by key and time. A group is one key's
decisions: `groups[g]` holds its first row, the row after its last one, its first decision and the decision after its
last one. Every result depends on the set of counted rows only, never on their order.
"""

from typing import Any

import numpy as np
from numba import njit

from truecourse.arrays import Array


@njit(nogil=True, cache=True)
def stable_order(codes: Array, order: Array, count: int) -> Any:
    """Sort `order`, a list of places, by code, stably. Return it and the first place of each code (count + 1)."""
    first = np.zeros(count + 1, np.int64)
    for code in codes:
        first[code + 1] += 1
    for code in range(count):
        first[code + 1] += first[code]
    following = first[:-1].copy()
    result = np.empty(len(order), np.int64)
    for place in order:
        code = codes[place]
        result[following[code]] = place
        following[code] += 1
    return result, first


@njit(nogil=True, cache=True)
def is_ordered(codes: Array, times: Array) -> bool:
    """Whether times ascend within each run of equal codes."""
    for place in range(1, len(times)):
        if codes[place] == codes[place - 1] and times[place] < times[place - 1]:
            return False
    return True


@njit(nogil=True, cache=True)
def is_sorted(first: Array, second: Array, third: Array) -> bool:
    """Whether three columns ascend lexicographically."""
    for place in range(1, len(first)):
        before = place - 1
        if first[place] != first[before]:
            if first[place] < first[before]:
                return False
        elif second[place] != second[before]:
            if second[place] < second[before]:
                return False
        elif third[place] < third[before]:
            return False
    return True


@njit(nogil=True, cache=True)
def count_rows(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array,
) -> None:  # fmt: skip
    """Count the rows of each decision."""
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                count += valid[row] and starts[row] < ends[row]
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                count -= valid[row] and starts[row] < ends[row]
                removed += 1
            out[place] = count


@njit(nogil=True, cache=True)
def count_distinct(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, values: Array, kinds: int,
) -> None:  # fmt: skip
    """Count the distinct values (codes from 0 to kinds - 1) of each decision's rows."""
    uses = np.zeros(kinds, np.int64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    count += uses[values[row]] == 0
                    uses[values[row]] += 1
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    uses[values[row]] -= 1
                    count -= uses[values[row]] == 0
                removed += 1
            out[place] = count
        for row in range(begin, limit):
            if valid[row]:
                uses[values[row]] = 0


@njit(nogil=True, cache=True)
def sum_integers(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, counts: Array, values: Array,
) -> bool:  # fmt: skip
    """Sum int64 values. Return whether all sums are in the range of int64. `counts`: the number of values."""
    fits = True
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        low = high = count = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    low += values[row] & 0xFFFFFFFF
                    high += values[row] >> 32
                    count += 1
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    low -= values[row] & 0xFFFFFFFF
                    high -= values[row] >> 32
                    count -= 1
                removed += 1
            top = high + (low >> 32)
            fits &= -(1 << 31) <= top < 1 << 31
            out[place] = (top << 32) | (low & 0xFFFFFFFF)
            counts[place] = count
    return fits


@njit(nogil=True, cache=True)
def pick_rows_in_order(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, ranks: Array,
) -> None:  # fmt: skip
    """As pick_rows() for rows of which none ends before one that starts earlier: a queue of falling ranks."""
    longest = 0
    for group in range(len(groups)):
        longest = max(longest, groups[group, 1] - groups[group, 0])
    queue = np.empty(longest + 1, np.int64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added, head, tail = begin, 0, 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row]:
                    while head < tail and ranks[queue[tail - 1]] <= ranks[row]:
                        tail -= 1
                    queue[tail] = row
                    tail += 1
                added += 1
            while head < tail and ends[queue[head]] <= time:
                head += 1
            out[place] = queue[head] if head < tail else -1


@njit(nogil=True, cache=True)
def pick_rows(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, ranks: Array,
) -> None:  # fmt: skip
    """The row of highest rank of each decision, -1 without rows. `by_end` is not used.

    Rows enter a heap at their start, and leave it when they are on top after their end."""
    longest = 0
    for group in range(len(groups)):
        longest = max(longest, groups[group, 1] - groups[group, 0])
    heap = np.empty(longest + 1, np.int64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added, size = begin, 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and time < ends[row]:
                    while size and ranks[heap[0]] <= ranks[row] and ends[heap[0]] <= ends[row]:
                        size = _pop(heap, size, ranks)
                    size = _push(heap, size, ranks, row)
                added += 1
            while size and ends[heap[0]] <= time:
                size = _pop(heap, size, ranks)
            out[place] = heap[0] if size else -1


@njit(nogil=True, cache=True)
def _push(heap: Array, size: int, ranks: Array, row: int) -> int:
    place = size
    while place and ranks[heap[(place - 1) >> 1]] < ranks[row]:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = row
    return size + 1


@njit(nogil=True, cache=True)
def _pop(heap: Array, size: int, ranks: Array) -> int:
    size -= 1
    row, place = heap[size], 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and ranks[heap[child]] < ranks[heap[child + 1]]:
            child += 1
        if ranks[heap[child]] <= ranks[row]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = row
    return size
