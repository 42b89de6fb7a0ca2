"""What a parameter search gained: the chosen parameters against the default ones, on rows that it did not use."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.modeling.training import rows_of, train
from truecourse.problem import Problem
from truecourse.problem.training import AnyModel
from truecourse.statistics.intervals import COVERAGE, UNDEFINED
from truecourse.statistics.metrics import blocks_of, difference_of_losses, losses


def measure_gain(problem: Problem, frame: pa.Table, chosen: AnyModel, dropped: Sequence[str] = ()) -> dict[str, Any]:
    """Train with the default and with the chosen parameters, and compare both on the validation rows, in pairs.

    Both choose their rounds on these rows. `dropped`: features that only the default model has. Returns {"metric",
    "rows", "days", "coverage", "default", "chosen", "difference"}: losses, and the chosen one minus the default one
    with its interval. The search did not use these rows, so the difference is not too favourable, though the chosen
    trial is the best of many."""
    rows, in_time = rows_of(frame, "train", "validate"), "decision_time" in frame.column_names
    validation = rows_of(rows, "validate")
    found: dict[str, Any] = {
        "metric": problem.metric, "rows": len(validation), "days": None, "coverage": COVERAGE,
        "default": None, "chosen": None, "difference": dict(UNDEFINED),
    }  # fmt: skip
    if not len(validation):
        return found
    blocks = blocks_of(validation)
    default = _losses(problem, rows, validation, problem.model)
    same = chosen == problem.model and not dropped
    other = default if same else _losses(problem, rows.drop_columns(list(dropped)), validation, chosen)
    return found | {
        "days": len(np.unique(blocks)) if in_time else None,
        "default": _mean(problem, default),
        "chosen": _mean(problem, other),
        "difference": difference_of_losses(problem.kind, other, default, blocks, in_time),
    }


def _losses(problem: Problem, rows: pa.Table, validation: pa.Table, spec: AnyModel) -> Array:
    """Each validation row's loss, (n,), by a model that was not trained on it."""
    trained = train(problem, rows, replace(spec, refit=False))
    places, output = trained.out_of_fold
    labels = trained.model.vocabulary.labels(validation)
    return losses(problem.kind, labels, output[np.argsort(places, kind="stable")]).astype(np.float64)


def _mean(problem: Problem, rows: Array) -> float:
    return float(np.sqrt(rows.mean()) if problem.kind == "regression" else rows.mean())
