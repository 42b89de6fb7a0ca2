"""What the model learned, for its card: the dependence on each feature, interactions, and example rows."""

from collections.abc import Collection, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.evaluation.decision_report import decided_codes
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.modeling.prediction import explanations, predicted_label
from truecourse.statistics.metrics import losses

_SHOWN = 6
"""Features whose dependence is shown."""
_INTERACTING = 5
"""Features of which all pairs are measured."""
_BINS = 12
_POINTS = 40
"""Rows at which interactions are measured, and rows that are averaged over."""
_PARTS = 5
"""Contributions that are shown of an example."""


def dependence(test: HeldOut, private: Collection[str]) -> list[dict[str, Any]]:
    """Summarize how the contributions of the largest features depend on their values, over the explained rows.

    [{"feature", "class": of a multiclass model the one on which the feature has the largest effect, else None, "bins":
    [{"value": a category or the middle of a range, "from" and "to" of a number, "rows", "mean", "low" and "high": the
    10% and 90% quantiles of the contributions}]}]. Private features and counted texts are left out."""
    vocabulary, values = test.model.vocabulary, test.explained[1]
    hidden = {*private, *vocabulary.ngrams}
    shown = [name for name in _largest(test) if name not in hidden][:_SHOWN]
    rows = columns_of(test.lookup(test.rows.take(pa.array(test.explained[0]))), shown)
    found = []
    for name in shown:
        parts, of_class = values[..., vocabulary.features.index(name)], None
        if parts.ndim == 2:
            code = int(np.abs(parts).mean(axis=0).argmax())
            parts, of_class = parts[:, code], vocabulary.classes[code]
        bins = _category_bins if name in vocabulary.categories else _number_bins
        found.append({"feature": name, "class": of_class, "bins": bins(rows[name], parts.astype(np.float64))})
    return found


def _largest(test: HeldOut) -> list[str]:
    return [name for name, mean in sorted(test.contributions.items(), key=lambda item: -item[1]) if mean > 0]


def _category_bins(values: Array, parts: Array) -> list[dict[str, Any]]:
    names, codes = np.unique([("missing" if value is None else str(value)) for value in values], return_inverse=True)
    largest = np.argsort(-np.bincount(codes), kind="stable")[:_BINS]
    return [{"value": str(names[code]), **_summary(parts[codes == code])} for code in largest.tolist()]


def _number_bins(values: Array, parts: Array) -> list[dict[str, Any]]:
    present = ~np.isnan(values)
    distinct = np.unique(values[present])
    edges = (
        distinct if len(distinct) <= _BINS else np.unique(np.quantile(values[present], np.linspace(0, 1, _BINS + 1)))
    )
    if len(distinct) <= _BINS:
        masks = [(value, value, values == value) for value in distinct.tolist()]
    else:
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        masks = [(low, high, present & (place == n)) for n, (low, high) in enumerate(pairwise(edges))]
    bins = [
        {"value": float(np.median(values[mask])), "from": float(low), "to": float(high), **_summary(parts[mask])}
        for low, high, mask in masks
        if mask.any()
    ]
    return bins if present.all() else [*bins, {"value": "missing", **_summary(parts[~present])}]


def _summary(parts: Array) -> dict[str, Any]:
    low, high = np.quantile(parts, [0.1, 0.9]).tolist()
    return {"rows": len(parts), "mean": float(parts.mean()), "low": low, "high": high}


def interactions(test: HeldOut) -> list[dict[str, Any]]:
    """Measure the interactions of the largest features, the strongest first, on at most 40 test rows.

    [{"features": (one, other), "strength": root mean square of the part of the margin that depends on both together, in
    the margin's units, "share": its share of the variance of their joint effect}]. Friedman and Popescu (2008,
    "Predictive learning via rule ensembles"): the H statistic, from partial dependence."""
    names = _largest(test)[:_INTERACTING]
    rows = np.unique(np.linspace(0, len(test.matrix) - 1, _POINTS).astype(int))
    matrix, vocabulary = test.matrix[rows], test.model.vocabulary
    columns = {
        name: [
            n for n, column in enumerate(vocabulary.matrix_columns) if column.feature == vocabulary.features.index(name)
        ]
        for name in names
    }
    single = {name: _partial(test, matrix, columns[name]) for name in names}
    found = []
    for one, other in combinations(names, 2):
        joint = _partial(test, matrix, columns[one] + columns[other])
        rest, total = ((joint - single[one] - single[other]) ** 2).mean(), (joint**2).mean()
        share = float(rest / total) if total > 0 else 0.0
        found.append({"features": [one, other], "strength": float(np.sqrt(rest)), "share": min(share, 1.0)})
    return sorted(found, key=lambda pair: -pair["strength"])


def _partial(test: HeldOut, matrix: Array, columns: Sequence[int]) -> Array:
    """Compute the centred partial dependence of the margin on some columns at each row: (n, k)."""
    count = len(matrix)
    changed = np.tile(matrix, (count, 1))
    changed[:, columns] = np.repeat(matrix[:, columns], count, axis=0)
    margins = test.model.margin(np.ascontiguousarray(changed)).astype(np.float64)
    means = margins.reshape(count, count, -1).mean(axis=1)
    return np.asarray(means - means.mean(axis=0))


def examples(test: HeldOut, private: Collection[str], count: int) -> list[dict[str, Any]]:
    """Return test rows that the model predicts best and worst, `count` of each, among the explained rows.

    [{"right": whether it is one of the best, "label", "prediction", "score": the probability of the predicted class, or
    None, "time": the day of the decision, or None, "contributions": the five largest, [{"feature", "value",
    "contribution"}]}]. Values of private features and of counted texts are None, with "hidden": true."""
    vocabulary, kind = test.model.vocabulary, test.problem.kind
    places = test.explained[0]
    output, labels = test.core_predictions["model"][places], test.labels[places]
    loss = losses(kind, labels, output)
    order = np.argsort(loss, kind="stable")
    count = min(count, len(order) // 2)
    codes = labels if kind == "regression" else decided_codes(test.model, output)
    correct = codes[order] == labels[order]
    best, worst = order[correct], order if kind == "regression" else order[~correct]
    chosen = [
        *((int(at), True) for at in _spread(best, labels, count, kind)),
        *((int(at), False) for at in worst[::-1][:count]),
    ]
    if not chosen:
        return []
    rows = test.rows.take(pa.array(places[[at for at, _ in chosen]]))
    columns = columns_of(test.lookup(rows), vocabulary.features)
    explained = explanations(test.model, columns, vocabulary.encode(columns))
    hidden, outputs = {*private, *vocabulary.ngrams}, output.astype(np.float64).tolist()
    times = rows["decision_time"].to_pylist() if "decision_time" in rows.column_names else [None] * len(rows)
    return [
        {
            "right": right,
            "label": vocabulary.classes[int(labels[at])] if vocabulary.classes else float(labels[at]),
            "prediction": predicted_label(kind, vocabulary.classes, outputs[at], test.model.decision),
            "score": _probability(outputs[at], int(codes[at])) if vocabulary.classes else None,
            "time": time.date().isoformat() if time else None,
            "contributions": [_part(part, hidden) for part in explanation["contributions"][:_PARTS]],
        }
        for (at, right), explanation, time in zip(chosen, explained, times, strict=True)
    ]


def _spread(order: Array, labels: Array, count: int, kind: str) -> list[int]:
    """Return the rows of the smallest loss; of a classifier those of different classes in turn."""
    if kind == "regression":
        return [int(at) for at in order[:count]]
    queues = [order[labels[order] == code].tolist() for code in np.unique(labels)]
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return [int(at) for at in turns[:count]]


def _probability(output: Any, code: int) -> float:
    return float(output[code] if isinstance(output, list) else output if code else 1 - output)


def _part(part: dict[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    return {**part, "value": None, "hidden": True} if part["feature"] in hidden else part
