"""Fairness by groups: rates, calibration and equal-opportunity gaps, with intervals.

A rate is a ratio of sums over rows; its influence by block is that of the linearised ratio (the delta method). The gaps
of all groups to the largest one have simultaneous intervals, so that one of twenty equal groups does not appear to
differ. Equal opportunity: equal recall (Hardt, Price and Srebro 2016, "Equality of opportunity in supervised
learning").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.evaluation.slices import FEWEST_ROWS, parts_of
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import COVERAGE, Estimate, Scale, difference, estimate, simultaneous

_MOST_CLASSES = 10
"""Most classes of which the recall is compared."""
_MOST_GROUPS = 50
MISSING = "missing"


@dataclass(frozen=True)
class Rate:
    """The ratio of two sums over rows: of `values` (n,) and of `weights` (n,)."""

    label: str
    values: Array
    weights: Array
    scale: Scale = "share"


@dataclass(frozen=True)
class Predicted:
    """n test rows. `labels` (n,) and `output` as of Model.predict(); `codes` (n,): the predicted classes, empty for a
    regression; `blocks` (n,): days, or groups of rows without time; `in_time`: whether they are days."""

    kind: Kind
    classes: Sequence[str]
    labels: Array
    output: Array
    codes: Array
    blocks: Array
    in_time: bool


def rates_of(rows: Predicted) -> dict[str, Rate]:
    """Return the rates that are compared between groups, by name."""
    labels, every = rows.labels.astype(np.float64), np.ones(len(rows.labels))
    if rows.kind == "regression":
        errors = rows.output.astype(np.float64) - labels
        return {
            "mean_label": Rate("mean label", labels, every, "plain"),
            "bias": Rate("mean prediction minus mean label", errors, every, "plain"),
            "mae": Rate("mean absolute error", np.abs(errors), every, "positive"),
        }
    if rows.kind == "multiclass":
        return _rates_of_classes(rows, every)
    predicted, score = rows.codes.astype(np.float64), rows.output.astype(np.float64)
    return {
        "base_rate": Rate("share positive", labels, every),
        "positive_share": Rate("share predicted positive", predicted, every),
        "recall": Rate("recall (equal opportunity)", predicted * labels, labels),
        "false_positive_rate": Rate("false positive rate", predicted * (1 - labels), 1 - labels),
        "precision": Rate("precision", predicted * labels, predicted),
        "calibration_gap": Rate("mean score minus share positive", score - labels, every, "plain"),
    }


def _rates_of_classes(rows: Predicted, every: Array) -> dict[str, Rate]:
    labels = rows.labels.astype(np.int64)
    right = (rows.codes == labels).astype(np.float64)
    confidence = rows.output.max(axis=1).astype(np.float64)
    frequent = np.argsort(-np.bincount(labels, minlength=len(rows.classes)), kind="stable")[:_MOST_CLASSES]
    recalls = {
        f"recall_{rows.classes[code]}": Rate(
            f"recall of {rows.classes[code]} (equal opportunity)", right * (labels == code), 1.0 * (labels == code)
        )
        for code in np.sort(frequent).tolist()
    }
    return {
        "accuracy": Rate("accuracy", right, every),
        "calibration_gap": Rate("mean confidence minus accuracy", confidence - right, every, "plain"),
        **recalls,
    }


def fairness(rows: Predicted, frame: pa.Table, column: str) -> dict[str, Any]:
    """Compare the rates of the groups of a column.

    {"column", "reference": the largest group, "labels": {rate: its name for people}, "groups": [{"value", "rows",
    "rates": {rate: Estimate}, "gaps": {rate: Estimate of the group minus the reference}, "differs": rates whose gap is
    more than noise}], "left_out": number of other groups}. The largest group comes first and has no gaps."""
    kept, left_out = _groups(frame[column])
    rates = rates_of(rows)
    place = np.unique(rows.blocks, return_inverse=True)[1]
    linear = {
        name: [_linearised(rate, mask, place) for _, mask in kept] for name, rate in rates.items()
    }  # the value of each group's rate, and its influence by block
    gaps = {name: _gaps(linear[name], rate.scale, rows.in_time) for name, rate in rates.items()}
    groups = [
        {
            "value": value,
            "rows": int(mask.sum()),
            "rates": {name: linear[name][at].estimate(rate.scale, rows.in_time) for name, rate in rates.items()},
            "gaps": {name: found[at - 1] for name, found in gaps.items()} if at else {},
            "differs": [name for name, found in gaps.items() if at and _is_noticeable(found[at - 1])],
        }
        for at, (value, mask) in enumerate(kept)
    ]
    return {
        "column": column,
        "reference": kept[0][0] if kept else None,
        "labels": {name: rate.label for name, rate in rates.items()},
        "groups": groups,
        "left_out": left_out,
    }


def _groups(values: pa.ChunkedArray) -> tuple[list[tuple[str, Array]], int]:
    """Return (value, mask) of the groups with enough rows, the largest first, and the number of the others.

    Of a text at most the 50 largest: a mask for each of thousands of values would fill the memory."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        parts = [(name, mask) for name, mask in parts_of(values) if mask.any()]
        kept = sorted((part for part in parts if part[1].sum() >= FEWEST_ROWS), key=lambda p: (-p[1].sum(), p[0]))
        return kept, len(parts) - len(kept)
    texts = pc.fill_null(values, MISSING).combine_chunks().dictionary_encode()
    codes, names = texts.indices.to_numpy(), texts.dictionary.to_pylist()
    sizes = np.bincount(codes, minlength=len(names))
    large = sorted(
        (code for code in range(len(names)) if sizes[code] >= FEWEST_ROWS), key=lambda c: (-sizes[c], names[c])
    )
    return [(names[code], codes == code) for code in large[:_MOST_GROUPS]], len(names) - len(large[:_MOST_GROUPS])


@dataclass(frozen=True)
class _Linear:
    """The rate of some rows, NaN without weight; its influence by block, NaN where it is undefined; its weight."""

    value: float
    influence: Array
    weight: float

    def estimate(self, scale: Scale, in_time: bool, coverage: float = COVERAGE) -> Estimate:
        """Return the rate with its interval; at 0 and 1 the exact one of a binomial share (Clopper and Pearson)."""
        if scale == "share" and self.value in (0.0, 1.0):
            far = 1 - ((1 - coverage) / 2) ** (1 / self.weight)
            low, high = (0.0, far) if self.value == 0 else (1 - far, 1.0)
            return {"value": self.value, "low": low, "high": high}
        return estimate(self.value, self.influence, scale, in_time, coverage)


def _linearised(rate: Rate, mask: Array, place: Array) -> _Linear:
    values, weights = rate.values * mask, rate.weights * mask
    total, blocks = float(weights.sum()), int(place.max()) + 1
    value = float(values.sum()) / total if total else float("nan")
    if not total or (rate.scale == "share" and value in (0.0, 1.0)):  # no row differs: the noise cannot be seen
        return _Linear(value, np.full(blocks, np.nan), total)
    sums = np.bincount(place, weights=values - value * weights, minlength=blocks)
    return _Linear(value, np.where(np.abs(sums) > 1e-12 * total, sums, 0.0) * blocks / total, total)


def _gaps(found: list[_Linear], scale: Scale, in_time: bool) -> list[Estimate]:
    """Return the gap of each group but the first to the first, with simultaneous intervals.

    Where the noise of one of both cannot be seen, the intervals of both are combined instead, corrected for the number
    of gaps (Bonferroni)."""
    if len(found) < 2:
        return []
    first, others = found[0], found[1:]
    values = np.array([one.value - first.value for one in others])
    gaps = simultaneous(values, np.array([one.influence - first.influence for one in others]))
    coverage = 1 - (1 - COVERAGE) / len(others)
    return [
        gap
        if gap["low"] is not None or not (one.weight and first.weight)
        else difference(one.estimate(scale, in_time, coverage), first.estimate(scale, in_time, coverage))
        for one, gap in zip(others, gaps, strict=True)
    ]


def _is_noticeable(gap: Estimate) -> bool:
    low, high = gap["low"], gap["high"]
    return low is not None and high is not None and (low > 0 or high < 0)
