"""Exact SHAP values of a forest, by a compiled kernel. Import it lazily: importing Numba takes a quarter of a second.

Path-dependent TreeSHAP (Lundberg et al., Nature Machine Intelligence 2, 2020) sums, for each leaf, over all subsets of
the features on its path. That sum equals the integral over t from 0 to 1 of a product with one factor per feature:
t + z (1 - t) where the row follows the path, z (1 - t) where it does not; z is the share of training rows that follow
it. The integrand is a polynomial, so Gauss-Legendre quadrature is exact. Products are built downwards and their sums
upwards, once per node (after Yu, Xu, Chiang and Hsieh, Linear TreeShap, NeurIPS 2022). XGBoost's algorithm is quadratic
in the depth, and takes four times as long for a row of 300 trees.
"""

from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.forest_kernel import EDGE, attribute

LEAST = 1e-30
"""The smallest share of training rows; products are divided by it, so it cannot be 0."""


class Attributions:
    """SHAP values of one forest: its edges and the factors that depend on no row.

    `means`: (k,) the mean margin over the training rows, including the base score."""

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
        """Return (n, k, d + 1) float64 for a C-contiguous (n, d) float32 matrix; the last column is the base value."""
        forest = self._forest
        to = np.zeros((len(matrix), len(self.means), forest.features))
        attribute(matrix, self._edges, forest.nodes, forest.category_bits, self._factors, self._inverses, to)
        base = np.broadcast_to(self.means[:, None], (*to.shape[:2], 1))
        return np.concatenate([to, base], axis=2)


def _edges(tree: dict[str, Any], start: int, group: int) -> tuple[Array, int]:
    """Return the edges of one tree, and the largest number of distinct features on a path.

    `parent` and `before` count from the tree's first edge. The integrand's degree is one less than that number."""
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
    """Return (k,) the mean leaf value of each output's trees, weighted by training rows."""
    means = np.zeros(len(forest.base))
    for tree, group in zip(trees, forest.groups, strict=True):
        leaf = np.array(tree["left_children"]) < 0
        covers = np.array(tree["sum_hessian"])[leaf]
        means[group] += np.average(np.array(tree["split_conditions"])[leaf], weights=covers)
    return means
