"""Exact SHAP values of a forest, compiled. To be imported only where it is needed: Numba takes a quarter of a second.

Path-dependent TreeSHAP (Lundberg et al., Nature Machine Intelligence 2, 2020) sums, for each leaf, over all subsets of
the features on the way to it. That sum is the integral over t from 0 to 1 of a product with a factor for each of these
features: t + z (1 - t) where the row goes the leaf's way, z (1 - t) where it does not, z being the part of the training
rows that do. The integrand is a polynomial, so Gauss-Legendre quadrature gives it exactly; the products are built on
the way down and their sums on the way up, once for every node (after Yu, Xu, Chiang and Hsieh, Linear TreeShap, NeurIPS
2022). XGBoost's own algorithm takes time that grows with the square of the depth: for a row of 300 trees four times as
much.
"""

from typing import Any

import numpy as np
from numba import njit

from truecourse.arrays import Array
from truecourse.modeling.forest_kernel import next_place

EDGE = np.dtype(
    [("parent", "i4"), ("place", "i4"), ("feature", "i4"), ("before", "i4"), ("group", "i4"), ("inner", "i4"),
     ("leaf", "f8"), ("z", "f8")]
)  # fmt: skip
"""The way into a node, in preorder. `parent`: the edge into the node above, -1 for a root. `place`: of its node among
the forest's. `feature`: what decides whether a row goes this way. `before`: the last edge above that the same feature
decides, -1 for none. `group`: the output. `inner`: 0 for a leaf, which adds `leaf` to the margin. `z`: the part of the
training rows that this edge and those before it, of the same feature, let through."""


LEAST = 1e-30
"""What stands for no part of the training rows: products are divided by it."""


@njit(nogil=True, cache=True)
def attribute(
    rows: Array, edges: Array, nodes: Array, words: Array, factors: Array, inverses: Array, to: Array
) -> None:
    """Fill `to` (n, k, d), float64, zeros. `factors`: (edges, 2, q), the factor at each point of the quadrature where
    the row goes another way, and where it goes this one; a root's are the weights. `inverses`: 1 over them."""
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
                taken[edge] = next_place(nodes, words, it.place, rows[row])
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


class Attributions:
    """The edges of a forest's trees, and what is known of them before there is a row. `means`: (k,) what the trees add
    to the margin of a row of which nothing is known, base score included."""

    def __init__(self, forest: Any, trees: list[dict[str, Any]]) -> None:
        self._forest = forest
        places = zip(trees, forest.starts, forest.groups, strict=True)
        parts, features = zip(*(_edges(tree, int(start), int(group)) for tree, start, group in places), strict=True)
        self._edges = np.concatenate(parts)
        edges = self._edges
        firsts = np.flatnonzero(edges["parent"] < 0)
        offsets = np.repeat(firsts, np.diff([*firsts, len(edges)]))
        for name in ("parent", "before"):
            edges[name] = np.where(edges[name] >= 0, edges[name] + offsets, -1)
        points, weights = np.polynomial.legendre.leggauss(max(1, max(features) + 1 >> 1))
        t, z = (points + 1) / 2, edges["z"][:, None]
        self._factors = np.stack([z * (1 - t), t + z * (1 - t)], axis=1)
        self._factors[firsts] = weights / 2
        self._inverses = 1 / self._factors
        self.means = forest.base.astype(np.float64) + _means(trees, forest)

    def __call__(self, matrix: Array) -> Array:
        """(n, k, d + 1) float64 of a (n, d) float32 matrix, C-contiguous; the last column is the base value."""
        forest = self._forest
        to = np.zeros((len(matrix), len(self.means), forest.features))
        attribute(matrix, self._edges, forest.nodes, forest.words, self._factors, self._inverses, to)
        base = np.broadcast_to(self.means[:, None], (*to.shape[:2], 1))
        return np.concatenate([to, base], axis=2)


def _edges(tree: dict[str, Any], start: int, group: int) -> tuple[Array, int]:
    """Of one tree; `parent` and `before` count from its own first edge. And by how many features a way splits at
    most: one less is the degree of what is integrated."""
    left, right, split = tree["left_children"], tree["right_children"], tree["split_indices"]
    covers, leaves = tree["sum_hessian"], tree["split_conditions"]
    edges = np.zeros(len(left), EDGE)
    waiting: list[tuple[int, int, int, dict[int, int]]] = [(0, -1, 0, {})]
    number, most = 0, 0
    while waiting:
        node, parent, feature, above = waiting.pop()
        before, z = above.get(feature, -1), 1.0
        if parent >= 0:
            among = covers[edges["place"][parent] - start]
            z = covers[node] / among if among else 0.5
            z = max(z * (edges["z"][before] if before >= 0 else 1.0), LEAST)
            above = above | {feature: number}
            most = max(most, len(above))
        inner = left[node] >= 0
        edges[number] = (
            parent, start + node, feature, before if parent >= 0 else -1, group, inner,
            0.0 if inner else leaves[node], z,
        )  # fmt: skip
        if inner:
            waiting += [(child, number, split[node], above) for child in (right[node], left[node])]
        number += 1
    return edges[:number], most


def _means(trees: list[dict[str, Any]], forest: Any) -> Array:
    """(k,) the mean of the leaves of each output's trees, by the training rows in them."""
    means = np.zeros(len(forest.base))
    for tree, group in zip(trees, forest.groups, strict=True):
        leaf = np.array(tree["left_children"]) < 0
        covers = np.array(tree["sum_hessian"])[leaf]
        means[group] += np.average(np.array(tree["split_conditions"])[leaf], weights=covers)
    return means
