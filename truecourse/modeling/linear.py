"""A linear model as the first trees of a booster, so that boosting continues on its residuals.

A linear model is a sum of one function per feature. Each function becomes a tree that splits by this feature alone:
fine steps that cost no accuracy, constant outside the range of the training values. In XGBoost's own format it needs no
special case in predictions, exact contributions, the compiled forest or MLflow.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling import baselines
from truecourse.modeling.encoding import LARGEST, MatrixColumn, Vocabulary
from truecourse.problem.definition import Kind
from truecourse.settings import get_settings

if TYPE_CHECKING:
    import xgboost

_NOISE = 0.02
"""Allowed error of a regression's steps: root mean square, relative to the standard deviation of the residuals. The
squared error grows by 1/2500."""
_LOG_ODDS = 0.02
"""Allowed error of a classification's steps, in log-odds. The log loss grows by at most 0.00005."""
_MOST_STEPS = 1024
"""Steps of one feature. An almost exactly linear label would need more; the error is then at most 1/4000 of the
feature's range of scores."""
_DIGITS = 1024
"""Slopes are rounded to this fraction of the allowed error, so that processors seldom differ in the last digits."""

_TOGETHER = 4096
"""Rows scored in one call."""


@dataclass(frozen=True)
class _Function:
    """A step function of one feature: what it adds to one output.

    `values`: of each step, in order; `rows`: the training rows of each step. `thresholds`: between a number's steps,
    ascending. `codes`: the categories of each step, None for a number. `missing`: what a missing value adds, and the
    number of training rows without a value."""

    feature: int
    values: Array
    rows: Array
    thresholds: Array
    codes: list[list[int]] | None
    missing: tuple[float, float]

    def centred(self) -> tuple["_Function", float]:
        """Return the function with mean 0 over the training rows, and its original mean."""
        value, rows = self.missing
        mean = float((self.values @ self.rows + value * rows) / max(self.rows.sum() + rows, 1))
        return replace(self, values=self.values - mean, missing=(value - mean, rows)), mean


def linear_booster(
    kind: Kind,
    vocabulary: Vocabulary,
    matrix: Array,
    labels: Array,
    template: "xgboost.Booster",
    penalty: float = 1.0,
    weights: Array | None = None,
) -> "xgboost.Booster | None":
    """Fit baselines.fit_linear() to `matrix` (n, d) and n labels, and return it as a booster of single-feature trees.

    `template`: any booster of the same objective and features. The first round is a constant, followed by one round per
    feature with an effect. None where no linear model can be fitted: no features, or rows of one class only."""
    if not matrix.shape[1] or (kind != "regression" and len(np.unique(labels)) < 2):
        return None
    fitted = baselines.fit_linear(kind, vocabulary, matrix, labels, penalty, weights)
    allowed = _LOG_ODDS
    if kind == "regression":
        residuals = labels - baselines.predict(kind, vocabulary, fitted, matrix)
        allowed = _NOISE * max(float(np.std(residuals)), 1e-6 * float(np.std(labels)), float(np.finfo(np.float32).tiny))
    unit = allowed / _DIGITS
    columns = vocabulary.matrix_columns
    probes = [_probe_values(column, matrix[:, place]) for place, column in enumerate(columns)]
    base, effects = _probe_effects(lambda rows: baselines.compute_scores(kind, vocabulary, fitted, rows), probes, unit)
    rounds = list[list[_Function]]()
    for place, (column, effect) in enumerate(zip(columns, effects, strict=True)):
        functions = []
        step = allowed * np.sqrt(12 / matrix.shape[1])  # a uniform error over a step: height / √12
        for output, function in enumerate(_functions(column, place, matrix[:, place], effect, step)):
            centred, mean = function.centred()
            base[output] += mean
            functions.append(centred)
        if any(np.abs([*function.values, function.missing[0]]).max() > unit for function in functions):
            rounds.append(functions)
    trees = [_Tree(0, len(labels), value).document(matrix.shape[1]) for value in base]
    trees += [_tree(function).document(matrix.shape[1]) for functions in rounds for function in functions]
    return _with_trees(template, trees, len(base))


def join_boosters(first: "xgboost.Booster", second: "xgboost.Booster", rounds: int) -> "xgboost.Booster":
    """Append `rounds` rounds of `second`, which was boosted from the margins of `first`, to `first`."""
    models = [
        json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"] for booster in (first, second)
    ]
    outputs = models[0]["iteration_indptr"][1]
    return _with_trees(first, models[0]["trees"] + models[1]["trees"][: rounds * outputs], outputs)


def scale_booster(booster: "xgboost.Booster", slope: float, intercept: float) -> "xgboost.Booster":
    """Return a booster with the margin slope * margin + intercept: its trees scaled, and a round of constants first."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    bases = np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"]))
    if learner["objective"]["name"] == "binary:logistic":
        bases = np.log(bases / (1 - bases))  # stored as a probability
    trees = learner["gradient_booster"]["model"]["trees"]
    outputs = learner["gradient_booster"]["model"]["iteration_indptr"][1]
    features, rows = int(learner["learner_model_param"]["num_feature"]), trees[0]["sum_hessian"][0]
    starts = [slope * base + intercept for base in np.broadcast_to(bases, outputs)]
    constants = [_Tree(0, rows, float(start)).document(features) for start in starts]
    return _with_trees(booster, constants + [_scale_leaves(tree, slope) for tree in trees], outputs)


def _scale_leaves(tree: dict[str, Any], slope: float) -> dict[str, Any]:
    """Multiply the leaf values, which the format keeps among the thresholds."""
    conditions = [
        slope * value if left == -1 else value
        for value, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
    ]
    return tree | {"split_conditions": conditions, "base_weights": [slope * value for value in tree["base_weights"]]}


def _probe_values(column: MatrixColumn, values: Array) -> Array:
    """Return the values that determine a column's linear function: every category, or the ends of a number's range."""
    if column.codes is not None:
        return np.arange(column.codes, dtype=np.float64)
    known = values[~np.isnan(values)].astype(np.float64)
    return np.array([known.min(), known.max()]) if len(known) else np.empty(0)


def _probe_effects(scores: Callable[[Array], Array], probes: Sequence[Array], unit: float) -> tuple[Array, list[Array]]:
    """Return the scores (k,) of a row without values, and for each feature what its probe values add: (values, k).

    Rows that differ in one feature are scored, so that no coefficients need to be read from the pipeline."""
    empty = np.full(len(probes), np.nan)
    places = [(feature, value) for feature, values in enumerate(probes) for value in values]
    base, parts = scores(empty[None])[0], []
    for begin in range(0, len(places), _TOGETHER):
        some = places[begin : begin + _TOGETHER]
        rows = np.tile(empty, (len(some), 1))
        rows[np.arange(len(some)), [feature for feature, _ in some]] = [value for _, value in some]
        parts.append(scores(rows) - base)
    added = np.round(np.concatenate([*parts, np.empty((0, len(base)))]) / unit) * unit
    return np.round(base / unit) * unit, np.split(added, np.cumsum([len(values) for values in probes])[:-1])


def _functions(column: MatrixColumn, feature: int, values: Array, effect: Array, step: float) -> list[_Function]:
    """Build a column's step function for each of k outputs. `effect` (values, k): of _probe_effects()."""
    missing, known = float(np.isnan(values).sum()), values[~np.isnan(values)].astype(np.float64)
    if not len(effect):
        return [_Function(feature, np.zeros(1), np.zeros(1), np.empty(0), None, (0.0, missing))] * effect.shape[1]
    if column.codes is not None:
        rows = np.bincount(known.astype(np.int64), minlength=len(effect))
        return [_of_categories(feature, added, rows, missing) for added in effect.T]
    distinct, counts = np.unique(known, return_counts=True)
    is_integer = column.kind == "integer"
    return [_of_numbers(feature, ends, distinct, counts, missing, step, is_integer) for ends in effect.T]


def _of_categories(feature: int, added: Array, rows: Array, missing: float) -> _Function:
    """Build one step for each group of categories with the same effect, as the rare ones have."""
    levels, level = np.unique(added, return_inverse=True)
    codes = [np.flatnonzero(level == place).tolist() for place in range(len(levels))]
    counts = np.bincount(level, weights=rows, minlength=len(levels))
    return _Function(feature, levels, counts, np.empty(0), codes, (0.0, missing))


def _of_numbers(
    feature: int, ends: Array, known: Array, counts: Array, missing: float, height: float, is_integer: bool
) -> _Function:
    """Build steps of at most this height that hold training rows. `known`: distinct values in order."""
    span, rise = known[-1] - known[0], ends[1] - ends[0]
    number = np.clip(np.ceil(abs(rise) / height), 1, len(known) if span == 0 else 1 << 20)
    while True:
        step = np.minimum((known - known[0]) / (span or 1) * number, number - 1).astype(np.int64)
        first = np.flatnonzero(np.diff(step, prepend=-1))
        if len(first) <= _MOST_STEPS:
            break
        number = np.ceil(number / 2)
    last = np.append(first[1:], len(known)) - 1
    values = ends[0] + rise * ((known[first] + known[last]) / 2 - known[0]) / (span or 1)
    thresholds = _between(known, first, last, is_integer)
    return _Function(feature, values, np.add.reduceat(counts, first), thresholds, None, (0.0, missing))


def _between(known: Array, first: Array, last: Array, is_integer: bool) -> Array:
    """Return the thresholds between steps: above the last value of one step, at most the first value of the next."""
    below, above = known[last[:-1]], known[first[1:]]
    middle = ((below + above) / 2).astype(np.float32).astype(np.float64)
    middle = np.ceil(middle) if is_integer else middle
    return np.where((middle > below) & (middle <= above), middle, above)


def _tree(function: _Function) -> "_Tree":
    """Build a balanced tree with one leaf per step.

    Missing values follow a step of equal effect; where there is none, the root splits them off."""
    (value, rows), codes = function.missing, function.codes
    known = float(function.rows.sum())
    tree = _Tree(function.feature, known + rows)
    equal = np.flatnonzero(function.values == value)
    own = int(equal[0]) if len(equal) else -1
    start = 0
    if own < 0:
        every = None if codes is None else _flatten(codes)
        own, start = len(function.values), tree.split(0, -float(LARGEST), every, True, rows, known) + 1
    left = [(start, 0, len(function.values))]
    while left:
        node, low, high = left.pop()
        if high - low == 1:
            tree.set_leaf(node, float(function.values[low]))
            continue
        middle = (low + high) // 2
        threshold = float(function.thresholds[middle - 1]) if codes is None else 0.0
        right = None if codes is None else _flatten(codes[middle:high])
        parts = float(function.rows[low:middle].sum()), float(function.rows[middle:high].sum())
        child = tree.split(node, threshold, right, own < middle, *parts)
        left += [(child, low, middle), (child + 1, middle, high)]
    if start:
        tree.set_leaf(start - 1, value)
    return tree


def _flatten(codes: Sequence[list[int]]) -> list[int]:
    return [code for part in codes for code in part]


class _Tree:
    """A tree in XGBoost's JSON format that splits by one feature only."""

    def __init__(self, feature: int, rows: float, value: float = 0.0) -> None:
        self._feature = feature
        self._nodes: list[dict[str, Any]] = []
        self._codes: list[tuple[int, list[int]]] = []
        self._add(_ROOT, rows)
        self.set_leaf(0, value)

    def set_leaf(self, node: int, value: float) -> None:
        """Set a leaf's value."""
        self._nodes[node] |= {"split_conditions": value, "base_weights": value}

    def split(self, node: int, threshold: float, codes: list[int] | None, missing_left: bool, *rows: float) -> int:
        """Split a leaf. Values below `threshold`, or categories not in `codes`, go left. `rows`: of each side.

        Returns the index of the left child; the right child is the next one."""
        left = len(self._nodes)
        self._nodes[node] |= {
            "split_conditions": threshold,
            "split_indices": self._feature,
            "split_type": int(codes is not None),
            "default_left": int(missing_left),
            "left_children": left,
            "right_children": left + 1,
        }
        if codes is not None:
            self._codes.append((node, sorted(codes)))
        for side in rows:
            self._add(node, max(side, 1.0))  # without rows, exact contributions would be undefined
        return left

    def _add(self, parent: int, rows: float) -> None:
        self._nodes.append(_LEAF | {"parents": parent, "sum_hessian": float(rows)})

    def document(self, features: int) -> dict[str, Any]:
        codes = sorted(self._codes)
        sizes = [len(part) for _, part in codes]
        return {
            **{name: [node[name] for node in self._nodes] for name in _LEAF},
            "categories": [code for _, part in codes for code in part],
            "categories_nodes": [node for node, _ in codes],
            "categories_segments": (np.cumsum(sizes, dtype=np.int64) - sizes).tolist() if sizes else [],
            "categories_sizes": sizes,
            "tree_param": {
                "num_deleted": "0",
                "num_feature": str(features),
                "num_nodes": str(len(self._nodes)),
                "size_leaf_vector": "1",
            },
        }


_ROOT = (1 << 31) - 1
_LEAF: dict[str, Any] = {
    "base_weights": 0.0, "default_left": 0, "left_children": -1, "loss_changes": 0.0, "parents": _ROOT,
    "right_children": -1, "split_conditions": 0.0, "split_indices": 0, "split_type": 0, "sum_hessian": 0.0,
}  # fmt: skip


def _with_trees(template: "xgboost.Booster", trees: Sequence[dict[str, Any]], outputs: int) -> "xgboost.Booster":
    """Return a booster like `template` with these trees, one per round and output, and base margins of 0."""
    import xgboost

    document = json.loads(template.save_raw("json"))
    learner = document["learner"]
    learner["attributes"] = {}
    model, parameters = learner["gradient_booster"]["model"], learner["learner_model_param"]
    model["trees"] = [tree | {"id": place} for place, tree in enumerate(trees)]
    model["tree_info"] = [place % outputs for place in range(len(trees))]
    model["iteration_indptr"] = list(range(0, len(trees) + 1, outputs))
    model["gbtree_model_param"]["num_trees"] = str(len(trees))
    margin = 0.5 if learner["objective"]["name"] == "binary:logistic" else 0.0  # as a probability
    bases = json.loads(parameters["base_score"])
    parameters["base_score"] = json.dumps([margin] * len(bases) if isinstance(bases, list) else margin)
    return xgboost.Booster({"nthread": get_settings().threads}, model_file=bytearray(json.dumps(document).encode()))
