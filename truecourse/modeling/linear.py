"""A linear model as the first trees of a booster: what is boosted after them is what the linear model leaves over.

A linear model is a sum of one function a feature, and a function of one feature is a tree that splits by that feature
alone: steps, so fine that they cost no accuracy, and constant beyond the values it was fitted to. As trees it is
XGBoost's own format that holds it: predictions, exact contributions, the compiled walk and MLflow need not know of it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling import baselines
from truecourse.modeling.encoding import LARGEST, Vocabulary
from truecourse.problem.definition import Kind
from truecourse.settings import get_settings

if TYPE_CHECKING:
    import xgboost

_NOISE = 0.05
"""How far the steps of a regression may be off, root mean square, as a share of the residuals' standard deviation: the
squared error grows by a four hundredth."""
_LOG_ODDS = 0.02
"""The same of a classification, in log-odds: the log loss grows by 0.00005 at most."""
_MOST_STEPS = 1024
"""Of one feature. A label that is almost exactly linear would take more; it is then off by a four thousandth of the
feature's share, at most."""
_DIGITS = 1024
"""Slopes are rounded to this part of what the steps may be off: another processor's last digits then seldom show."""

_TOGETHER = 4096


@dataclass(frozen=True)
class _Function:
    """What a feature adds to one output. `values`: of each step, in order; `rows`: how many fitted rows it holds.

    thresholds: between steps, ascending, of a number. codes: each step's, of a category; None of a number. missing:
    what a missing value adds, and how many fitted rows miss it."""

    feature: int
    values: Array
    rows: Array
    thresholds: Array
    codes: list[list[int]] | None
    missing: tuple[float, float]

    def centred(self) -> tuple["_Function", float]:
        """With a mean of 0 over the fitted rows, and the mean that it had."""
        value, rows = self.missing
        mean = float((self.values @ self.rows + value * rows) / max(self.rows.sum() + rows, 1))
        return replace(self, values=self.values - mean, missing=(value - mean, rows)), mean


def linear_booster(
    kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array, template: "xgboost.Booster"
) -> "xgboost.Booster | None":
    """The linear model of baselines.fit_linear() on `matrix` (n, d) and n labels, as a booster of single-feature trees.

    template: any booster of the same objective and features. The first round is a constant, then comes one round a
    feature that matters. None where no linear model can be fitted: no features, or rows of one class."""
    if not matrix.shape[1] or (kind != "regression" and len(np.unique(labels)) < 2):
        return None
    fitted = baselines.fit_linear(kind, vocabulary, matrix, labels)
    allowed = _LOG_ODDS
    if kind == "regression":
        residuals = labels - baselines.predict(kind, vocabulary, fitted, matrix)
        allowed = _NOISE * max(float(np.std(residuals)), 1e-6 * float(np.std(labels)), float(np.finfo(np.float32).tiny))
    unit = allowed / _DIGITS
    asked = [_asked(vocabulary, name, matrix[:, place]) for place, name in enumerate(vocabulary.features)]
    base, answers = _answers(lambda rows: baselines.compute_scores(kind, vocabulary, fitted, rows), asked, unit)
    rounds = list[list[_Function]]()
    for place, (name, answer) in enumerate(zip(vocabulary.features, answers, strict=True)):
        functions = []
        step = allowed * np.sqrt(12 / matrix.shape[1])  # an error even over a step has its height / √12
        for output, function in enumerate(_functions(vocabulary, name, place, matrix[:, place], answer, step)):
            moved, mean = function.centred()
            base[output] += mean
            functions.append(moved)
        if any(np.abs([*function.values, function.missing[0]]).max() > unit for function in functions):
            rounds.append(functions)
    trees = [_Tree(0, len(labels), value).document(matrix.shape[1]) for value in base]
    trees += [_tree(function).document(matrix.shape[1]) for functions in rounds for function in functions]
    return _with_trees(template, trees, len(base))


def join_boosters(first: "xgboost.Booster", second: "xgboost.Booster", rounds: int) -> "xgboost.Booster":
    """The rounds of `first` and then so many of `second`, which was boosted from the margins of `first`."""
    models = [
        json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"] for booster in (first, second)
    ]
    outputs = models[0]["iteration_indptr"][1]
    return _with_trees(first, models[0]["trees"] + models[1]["trees"][: rounds * outputs], outputs)


def _asked(vocabulary: Vocabulary, name: str, values: Array) -> Array:
    """The values that tell a feature's function: every category, or the ends of a number's range."""
    if name in vocabulary.categories:
        return np.arange(len(vocabulary.categories[name]), dtype=np.float64)
    known = values[~np.isnan(values)].astype(np.float64)
    return np.array([known.min(), known.max()]) if len(known) else np.empty(0)


def _answers(scores: Callable[[Array], Array], asked: Sequence[Array], unit: float) -> tuple[Array, list[Array]]:
    """The scores (k,) of a row with nothing known, and of each feature what its values add to them: (values, k) each.

    A linear model is asked, rather than its coefficients read: for rows that differ in one feature."""
    nothing = np.full(len(asked), np.nan)
    places = [(feature, value) for feature, values in enumerate(asked) for value in values]
    base, parts = scores(nothing[None])[0], []
    for begin in range(0, len(places), _TOGETHER):
        some = places[begin : begin + _TOGETHER]
        rows = np.tile(nothing, (len(some), 1))
        rows[np.arange(len(some)), [feature for feature, _ in some]] = [value for _, value in some]
        parts.append(scores(rows) - base)
    added = np.round(np.concatenate([*parts, np.empty((0, len(base)))]) / unit) * unit
    return np.round(base / unit) * unit, np.split(added, np.cumsum([len(values) for values in asked])[:-1])


def _functions(
    vocabulary: Vocabulary, name: str, feature: int, values: Array, answer: Array, step: float
) -> list[_Function]:
    """One an output. `answer` (values, k): of _asked()."""
    missing, known = float(np.isnan(values).sum()), values[~np.isnan(values)].astype(np.float64)
    if not len(answer):
        return [_Function(feature, np.zeros(1), np.zeros(1), np.empty(0), None, (0.0, missing))] * answer.shape[1]
    if name in vocabulary.categories:
        rows = np.bincount(known.astype(np.int64), minlength=len(answer))
        return [_of_categories(feature, column, rows, missing) for column in answer.T]
    distinct, counts = np.unique(known, return_counts=True)
    whole = vocabulary.kinds[name] == "integer"
    return [_of_numbers(feature, ends, distinct, counts, missing, step, whole) for ends in answer.T]


def _of_categories(feature: int, added: Array, rows: Array, missing: float) -> _Function:
    """Categories that add the same, as the rare ones do, are one step."""
    levels, level = np.unique(added, return_inverse=True)
    codes = [np.flatnonzero(level == place).tolist() for place in range(len(levels))]
    counts = np.bincount(level, weights=rows, minlength=len(levels))
    return _Function(feature, levels, counts, np.empty(0), codes, (0.0, missing))


def _of_numbers(
    feature: int, ends: Array, known: Array, counts: Array, missing: float, height: float, whole: bool
) -> _Function:
    """Steps of at most this height, without those that no fitted row lies on. `known`: distinct values in order."""
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
    thresholds = _between(known, first, last, whole)
    return _Function(feature, values, np.add.reduceat(counts, first), thresholds, None, (0.0, missing))


def _between(known: Array, first: Array, last: Array, whole: bool) -> Array:
    """Thresholds between the steps, each above the one step's last value and not above the next one's first."""
    below, above = known[last[:-1]], known[first[1:]]
    middle = ((below + above) / 2).astype(np.float32).astype(np.float64)
    middle = np.ceil(middle) if whole else middle
    return np.where((middle > below) & (middle <= above), middle, above)


def _tree(function: _Function) -> "_Tree":
    """Balanced, of a leaf a step. A missing value goes with a step that adds as much; where there is none, the root
    splits it off."""
    (value, rows), codes = function.missing, function.codes
    known = float(function.rows.sum())
    tree = _Tree(function.feature, known + rows)
    equal = np.flatnonzero(function.values == value)
    own = int(equal[0]) if len(equal) else -1
    start = 0
    if own < 0:
        every = None if codes is None else _flat(codes)
        own, start = len(function.values), tree.split(0, -float(LARGEST), every, True, rows, known) + 1
    left = [(start, 0, len(function.values))]
    while left:
        node, low, high = left.pop()
        if high - low == 1:
            tree.weigh(node, float(function.values[low]))
            continue
        middle = (low + high) // 2
        threshold = float(function.thresholds[middle - 1]) if codes is None else 0.0
        right = None if codes is None else _flat(codes[middle:high])
        parts = float(function.rows[low:middle].sum()), float(function.rows[middle:high].sum())
        child = tree.split(node, threshold, right, own < middle, *parts)
        left += [(child, low, middle), (child + 1, middle, high)]
    if start:
        tree.weigh(start - 1, value)
    return tree


def _flat(codes: Sequence[list[int]]) -> list[int]:
    return [code for part in codes for code in part]


class _Tree:
    """A tree in the words of XGBoost's JSON, of splits by one feature."""

    def __init__(self, feature: int, rows: float, value: float = 0.0) -> None:
        self._feature = feature
        self._nodes: list[dict[str, Any]] = []
        self._codes: list[tuple[int, list[int]]] = []
        self._add(_ROOT, rows)
        self.weigh(0, value)

    def weigh(self, node: int, value: float) -> None:
        """Give a leaf its value."""
        self._nodes[node] |= {"split_conditions": value, "base_weights": value}

    def split(self, node: int, threshold: float, codes: list[int] | None, missing_left: bool, *rows: float) -> int:
        """Split a leaf: what is below `threshold` goes left, or what is none of `codes`; each side holds so many rows.
        Returns the left one, which the right one follows."""
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
            self._add(node, max(side, 1.0))  # a side of no rows would leave exact contributions undefined
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
    """A booster like `template` with these trees, one a round and output, whose margins begin at 0."""
    import xgboost

    document = json.loads(template.save_raw("json"))
    learner = document["learner"]
    learner["attributes"] = {}
    model, parameters = learner["gradient_booster"]["model"], learner["learner_model_param"]
    model["trees"] = [tree | {"id": place} for place, tree in enumerate(trees)]
    model["tree_info"] = [place % outputs for place in range(len(trees))]
    model["iteration_indptr"] = list(range(0, len(trees) + 1, outputs))
    model["gbtree_model_param"]["num_trees"] = str(len(trees))
    margin = 0.5 if learner["objective"]["name"] == "binary:logistic" else 0.0  # a probability, there
    bases = json.loads(parameters["base_score"])
    parameters["base_score"] = json.dumps([margin] * len(bases) if isinstance(bases, list) else margin)
    return xgboost.Booster({"nthread": get_settings().threads}, model_file=bytearray(json.dumps(document).encode()))
