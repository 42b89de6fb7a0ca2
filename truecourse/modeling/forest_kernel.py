"""The walk through a forest, compiled. To be imported only where it is needed: Numba takes a quarter of a second.

Eight rows go down a tree side by side, as many levels as it has, with no branch that the processor could guess wrong;
of rows that are left over each goes down eight trees side by side. It is predication and interleaving as Asadi, Lin and
de Vries describe them (Runtime Optimizations for Tree-Based Machine Learning Models, IEEE TKDE 26(9), 2014). What is
added up is float32, and in XGBoost's order.
"""

from math import exp
from typing import Any

import numpy as np
from numba import njit

from truecourse.arrays import Array

NODE = np.dtype(
    [
        ("feature", "u2"),
        ("missing", "u1"),
        ("category", "u1"),
        ("left", "i4"),
        ("gap", "i4"),
        ("value", "f4"),
        ("first", "i4"),
        ("limit", "i4"),
    ]
)
"""A split, or a leaf, which is its own child. `left`: its left child's place, `gap`: from there to the right one (0: a
leaf). `value`: rows below it go left; a leaf's weight. `first`: where the bits of the categories that go right begin,
`limit`: how many there are bits for. `missing`: 1 where a missing value goes right. `category`: 1 for a split by it."""
LANES = 8
_BEYOND = np.float32(1 << 24)
VALUE, SIGMOID, SOFTMAX = 0, 1, 2
_ONE, _EPSILON, _MOST = np.float32(1), np.float32(1e-16), np.float32(88.7)


@njit(nogil=True, cache=True, inline="always")
def next_place(nodes: Array, words: Array, place: int, row: Array) -> Any:
    node = nodes[place]
    value = row[node.feature]
    code = np.int32(value) if (value >= 0) & (value < _BEYOND) else np.int32(-1)
    within = (code >= 0) & (code < node.limit)
    word = words[node.first + ((code >> 5) if within else 0)]
    bit = (word >> np.uint32(code & 31)) & np.uint32(1) if within else np.uint32(0)
    right = np.int32(bit) if node.category else np.int32(value >= node.value)
    return node.left + node.gap * (np.int32(node.missing) if value != value else right)


@njit(nogil=True, cache=True)
def walk(
    rows: Array,
    starts: Array,
    depths: Array,
    groups: Array,
    nodes: Array,
    words: Array,
    base: Array,
    link: int,
    to: Array,
) -> None:
    """Fill `to` (n, k). `starts`, `depths`, `groups`: of each tree its root's place, its levels, and which of the k
    outputs it adds to. `words`: bits of categories. `base`: (k,), what the sums begin with."""
    count, outputs = to.shape
    whole = count - count % LANES
    lanes = np.empty(LANES, np.int32)
    for row in range(count):
        for output in range(outputs):
            to[row, output] = base[output]
    for tree in range(len(starts)):
        group = groups[tree]
        for block in range(0, whole, LANES):
            for lane in range(LANES):
                lanes[lane] = starts[tree]
            for _ in range(depths[tree]):
                for lane in range(LANES):
                    lanes[lane] = next_place(nodes, words, lanes[lane], rows[block + lane])
            for lane in range(LANES):
                to[block + lane, group] += nodes[lanes[lane]].value
    for row in range(whole, count):
        for first in range(0, len(starts), LANES):
            trees, levels = min(LANES, len(starts) - first), 0
            for lane in range(LANES):
                tree = first + min(lane, trees - 1)
                lanes[lane], levels = starts[tree], max(levels, depths[tree])
            for _ in range(levels):
                for lane in range(LANES):
                    lanes[lane] = next_place(nodes, words, lanes[lane], rows[row])
            for lane in range(trees):
                to[row, groups[first + lane]] += nodes[lanes[lane]].value
    if link == SIGMOID:
        for row in range(count):
            to[row, 0] = _ONE / ((np.float32(exp(min(-to[row, 0], _MOST))) + _ONE) + _EPSILON)
    elif link == SOFTMAX:
        for row in range(count):
            most, total = to[row].max(), 0.0
            for output in range(outputs):
                to[row, output] = exp(to[row, output] - most)
                total += to[row, output]
            for output in range(outputs):
                to[row, output] /= np.float32(total)
