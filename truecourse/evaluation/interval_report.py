"""The report of prediction intervals on test rows: coverage and width, of all rows and by slice."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.evaluation.decision_report import ratio
from truecourse.evaluation.slices import FEWEST_ROWS, parts_of
from truecourse.modeling.intervals import IntervalRule
from truecourse.wording import counted

INTERVAL_LABELS = {
    "coverage": "Share within the bounds", "below_lower": "Share below the lower bound",
    "above_upper": "Share above the upper bound", "width": "Mean width",
}  # fmt: skip


def interval_report(
    rule: IntervalRule, labels: Array, bounds: tuple[Array, Array], blocks: Array, in_time: bool,
    rows: pa.Table, columns: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Report how n labels lie to their bounds.

    `bounds`: lower and upper (n,). `blocks`: (n,) of rows that are not independent; `in_time` if these are days.
    `columns`: of `rows`, whose values are slices. {"rule": IntervalRule as JSON, "sentence", "metrics": {name of
    INTERVAL_LABELS: {"value", "low", "high"}}, "slices": [{"column", "value", "rows", "coverage": as in metrics}]}."""
    lower, upper = bounds
    sides = {
        "coverage": (lower <= labels) & (labels <= upper), "below_lower": labels < lower, "above_upper": labels > upper,
    }  # fmt: skip
    every = np.ones(len(labels))
    metrics = {
        name: ratio(inside.astype(np.float64), every, blocks, in_time, "share") for name, inside in sides.items()
    }
    return {
        "rule": rule.model_dump(mode="json", exclude={"nodes"}),
        "sentence": f"{rule.coverage:.0%} of the values are expected within their bounds: {_chosen(rule, in_time)}.",
        "metrics": metrics | {"width": ratio(upper - lower, every, blocks, in_time)},
        "slices": [
            _slice(name, value, sides["coverage"][mask], blocks[mask], in_time)
            for name in columns
            for value, mask in parts_of(rows[name])
            if mask.sum() >= FEWEST_ROWS
        ],
    }


def _slice(column: str, value: str, inside: Array, blocks: Array, in_time: bool) -> dict[str, Any]:
    coverage = ratio(inside.astype(np.float64), np.ones(len(inside)), blocks, in_time, "share")
    return {"column": column, "value": value, "rows": len(inside), "coverage": coverage}


def _chosen(rule: IntervalRule, in_time: bool) -> str:
    days = f" of {counted(rule.blocks, 'day')}" if in_time else ""
    groups = f", in {len(rule.below)} groups by the size of the error" if len(rule.below) > 1 else ""
    return f"bounds chosen on {counted(rule.rows, 'validation row')}{days}{groups}"
