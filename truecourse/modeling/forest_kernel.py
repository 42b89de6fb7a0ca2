"""Compiled prediction and attribution of a forest. Import it lazily: importing Numba takes a quarter of a second.

All compiled functions are in this file: Numba's cache on disk compiles a function again if its own file changed, and
not if another file did, from which it calls a function.

Eight rows descend a tree in parallel, level by level, without branches to mispredict; each remaining row descends eight
trees in parallel. This is predication and interleaving as in Asadi, Lin and de Vries (Runtime Optimizations for
Tree-Based Machine Learning Models, IEEE TKDE 26(9), 2014). Sums are float32, in XGBoost's order.
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
"""A split, or a leaf, which is its own child.

`left`: position of the left child; `gap`: distance from it to the right child, 0 for a leaf. `value`: the threshold
(smaller values go left), or a leaf's weight. `category`: 1 for a categorical split. `first`: position of the bits of
the categories that go right; `limit`: their number. `missing`: 1 where missing values go right."""
EDGE = np.dtype(
    [("parent", "i4"), ("place", "i4"), ("feature", "i4"), ("before", "i4"), ("group", "i4"), ("inner", "i4"),
     ("leaf", "f8"), ("z", "f8")]
)  # fmt: skip
"""The edge into a node, in preorder.

`parent`: the edge into the parent node, -1 for a root. `place`: position of the node in the forest. `feature`: the
feature that the parent splits by. `before`: the nearest edge above with the same feature, -1 for none. `group`: the
output. `inner`: 0 for a leaf, which adds `leaf` to the margin. `z`: the share of training rows that follow this edge
and the earlier edges of the same feature."""
LANES = 8
_BEYOND = np.float32(1 << 24)
VALUE, SIGMOID, SOFTMAX = 0, 1, 2
_ONE, _EPSILON, _MOST = np.float32(1), np.float32(1e-16), np.float32(88.7)


@njit(nogil=True, cache=True, inline="always")
def next_place(nodes: Array, category_bits: Array, place: int, row: Array) -> Any:
    node = nodes[place]
    value = row[node.feature]
    code = np.int32(value) if (value >= 0) & (value < _BEYOND) else np.int32(-1)
    within = (code >= 0) & (code < node.limit)
    bits = category_bits[node.first + ((code >> 5) if within else 0)]
    bit = (bits >> np.uint32(code & 31)) & np.uint32(1) if within else np.uint32(0)
    right = np.int32(bit) if node.category else np.int32(value >= node.value)
    return node.left + node.gap * (np.int32(node.missing) if value != value else right)


@njit(nogil=True, cache=True)
def walk(
    rows: Array,
    starts: Array,
    depths: Array,
    groups: Array,
    nodes: Array,
    category_bits: Array,
    base: Array,
    link: int,
    to: Array,
) -> None:
    """Predict `rows` (n, d) into `to` (n, k).

    `starts`, `depths`, `groups`: each tree's root position, levels, and output (of k). `category_bits`: bits of
    categories, 32 per word. `base`: (k,) initial sums."""
    count, outputs = to.shape
    blocked = count - count % LANES
    lanes = np.empty(LANES, np.int32)
    for row in range(count):
        for output in range(outputs):
            to[row, output] = base[output]
    for tree in range(len(starts)):
        group = groups[tree]
        for block in range(0, blocked, LANES):
            for lane in range(LANES):
                lanes[lane] = starts[tree]
            for _ in range(depths[tree]):
                for lane in range(LANES):
                    lanes[lane] = next_place(nodes, category_bits, lanes[lane], rows[block + lane])
            for lane in range(LANES):
                to[block + lane, group] += nodes[lanes[lane]].value
    for row in range(blocked, count):
        for first in range(0, len(starts), LANES):
            trees, levels = min(LANES, len(starts) - first), 0
            for lane in range(LANES):
                tree = first + min(lane, trees - 1)
                lanes[lane], levels = starts[tree], max(levels, depths[tree])
            for _ in range(levels):
                for lane in range(LANES):
                    lanes[lane] = next_place(nodes, category_bits, lanes[lane], rows[row])
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


@njit(nogil=True, cache=True)
def attribute(
    rows: Array, edges: Array, nodes: Array, category_bits: Array, factors: Array, inverses: Array, to: Array
) -> None:
    """Add the SHAP values of `rows` to `to` (n, k, d), float64 zeros.

    `factors`: (edges, 2, q), the factor at each quadrature point where the row does not follow the edge, and where it
    does; a root holds the quadrature weights. `inverses`: 1 / factors."""
    count, points = len(edges), factors.shape[2]
    goes, taken = np.empty(count, np.uint8), np.empty(count, np.int32)
    products, sums = np.empty((count, points)), np.zeros((count, points))
    for row in range(len(rows)):
        for edge in range(count):
            it = edges[edge]
            way = np.uint8(1) if it.parent < 0 else np.uint8(taken[it.parent] == it.place)
            if it.before >= 0:
                way &= goes[it.before]
            goes[edge] = way
            for point in range(points):
                product = factors[edge, way, point]
                if it.parent >= 0:
                    product *= products[it.parent, point]
                if it.before >= 0:
                    product *= inverses[it.before, goes[it.before], point]
                products[edge, point] = product
            if it.inner:
                taken[edge] = next_place(nodes, category_bits, it.place, rows[row])
            else:
                for point in range(points):
                    sums[edge, point] = products[edge, point] * it.leaf
        for edge in range(count - 1, -1, -1):
            it = edges[edge]
            if it.parent >= 0:
                share, old = 0.0, 0.0
                for point in range(points):
                    share += sums[edge, point] * inverses[edge, goes[edge], point]
                    sums[it.parent, point] += sums[edge, point]
                if it.before >= 0:
                    for point in range(points):
                        old += sums[edge, point] * inverses[it.before, goes[it.before], point]
                    old *= goes[it.before] - edges[it.before].z
                to[row, it.group, it.feature] += share * (goes[edge] - it.z) - old
            for point in range(points):
                sums[edge, point] = 0.0
