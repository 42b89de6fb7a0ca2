"""Prediction intervals of regressions by split conformal prediction.

The bounds are quantiles of the errors on validation rows, by models that were not trained on them (Vovk, Gammerman and
Shafer 2005; Lei et al. 2018). Where errors are larger, bounds are wider: rows are grouped by a small tree of the
absolute errors over features and prediction, and each group has its own quantiles (Mondrian conformal prediction).
A quantile leaves room for one more row, as conformal prediction does. Rows of one day are not independent: they count
as so many as would give a share of them the same variance (the design effect, Kish 1965).
"""

from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.problem.decision import Interval
from truecourse.problem.definition import Kind
from truecourse.wording import counted

GROUP = 100
"""Fewest validation rows of a group."""
MOST_GROUPS = 16


class Node(NamedTuple):
    """A node of the tree that groups rows. Rows whose value of `column` is at most `threshold` go to node `left`, other
    ones to `right`, missing values to `left` if `missing_left`. The column after the matrix's last is the prediction.

    A leaf has column -1, and its group's number as `left`."""

    column: int
    threshold: float
    left: int
    right: int
    missing_left: bool


class IntervalRule(BaseModel):
    """The bounds of a model's predictions. Stored in its contract.

    `nodes`: the tree that groups rows, root first. `below`, `above`: for each group, how far the bounds lie from
    the prediction, in units of the label. `rows`, `blocks`: validation rows, and their days; without time, each row is
    a block of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: float
    nodes: tuple[Node, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    rows: int
    blocks: int

    def bounds(self, matrix: Array, output: Array) -> tuple[Array, Array]:
        """Return lower and upper bounds (n,) float64 of predictions (n,) for the encoded rows (n, d)."""
        group = _groups(self.nodes, _inputs(matrix, output))
        values = output.astype(np.float64)
        return values - np.array(self.below)[group], values + np.array(self.above)[group]


def choose_interval(
    interval: Interval, kind: Kind, matrix: Array, labels: Array, output: Array, blocks: Array
) -> IntervalRule:
    """Choose the bounds on n rows that the model was not trained on.

    `matrix`: (n, d) encoded. `blocks`: (n,), equal for rows that are not independent. Raises ModelError for a label
    that is no number, and for too few rows."""
    if kind != "regression":
        raise ModelError(f"intervals do not apply to a {kind} label", where="Interval", hint="leave interval out")
    tail = (1 - interval.coverage) / 2
    fewest = int(np.ceil(1 / tail - 1e-9)) - 1
    if len(labels) < fewest:
        what = f"{counted(len(labels), 'validation row')}: intervals of {interval.coverage:.0%} need {fewest}"
        raise ModelError(what, where="Interval", hint="widen the validation split, or lower the coverage")
    names, blocks = np.unique(blocks, return_inverse=True)
    errors = labels.astype(np.float64) - output
    nodes, group = _grouping(_inputs(matrix, output), np.abs(errors))
    parts = [(errors[group == number], blocks[group == number]) for number in range(int(group.max()) + 1)]
    return IntervalRule(
        coverage=interval.coverage,
        nodes=nodes,
        below=tuple(max(0.0, _quantile(-part, own, 1 - tail)) for part, own in parts),
        above=tuple(max(0.0, _quantile(part, own, 1 - tail)) for part, own in parts),
        rows=len(errors),
        blocks=len(names),
    )


def _inputs(matrix: Array, output: Array) -> Array:
    return np.column_stack([matrix, output.astype(np.float32)])


def _grouping(inputs: Array, sizes: Array) -> tuple[tuple[Node, ...], Array]:
    """Grow a tree whose leaves have at least GROUP rows; its nodes, and the group of each row."""
    from sklearn.tree import DecisionTreeRegressor

    leaves = min(MOST_GROUPS, len(inputs) // GROUP)
    if leaves < 2:
        return (Node(-1, 0.0, 0, 0, False),), np.zeros(len(inputs), np.int64)
    tree = DecisionTreeRegressor(max_leaf_nodes=leaves, min_samples_leaf=GROUP, random_state=0)
    relative = np.log1p(sizes / max(float(np.median(sizes)), np.finfo(np.float64).tiny))
    nodes = _nodes(tree.fit(inputs, relative).tree_)
    return nodes, _groups(nodes, inputs)


def _nodes(tree: Any) -> tuple[Node, ...]:
    leaves = np.cumsum(tree.children_left < 0) - 1
    return tuple(
        Node(-1, 0.0, int(leaves[place]), 0, False)
        if left < 0
        else Node(int(tree.feature[place]), float(tree.threshold[place]), int(left), int(tree.children_right[place]),
                  bool(tree.missing_go_to_left[place]))
        for place, left in enumerate(tree.children_left)
    )  # fmt: skip


def _groups(nodes: tuple[Node, ...], inputs: Array) -> Array:
    """Return the number of the group of each row (n,)."""
    group = np.zeros(len(inputs), np.int64)
    waiting = [(0, np.arange(len(inputs)))]
    while waiting:
        place, rows = waiting.pop()
        node = nodes[place]
        if node.column < 0:
            group[rows] = node.left
            continue
        values = inputs[rows, node.column]
        left = np.where(np.isnan(values), node.missing_left, values <= node.threshold)
        waiting += [(node.left, rows[left]), (node.right, rows[~left])]
    return group


def _quantile(values: Array, blocks: Array, level: float) -> float:
    """The least value that is not below this share of the rows, with room for one more independent row."""
    ordered = np.sort(values)
    inside = (values <= ordered[_place(level, len(values))]) - level
    independent = len(values) * level * (1 - level)
    effect = max(1.0, float((np.bincount(blocks, inside) ** 2).sum()) / independent)
    rows = len(values) / effect
    return float(ordered[_place(min(1.0, level * (rows + 1) / rows), len(values))])


def _place(level: float, count: int) -> int:
    return max(int(np.ceil(level * count - 1e-9)) - 1, 0)


def coverage_of(labels: Array, bounds: tuple[Array, Array]) -> Array:
    """Return for each row whether its label lies within its bounds, (n,) as numbers."""
    return ((bounds[0] <= labels) & (labels <= bounds[1])).astype(np.float64)
