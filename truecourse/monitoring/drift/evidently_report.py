"""Evidently on a sample of both sides: its page, and what it says of each column, to be read beside our own figures."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.predictions.observed import Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Reference, Window
from truecourse.registry.runs import trained_run
from truecourse.storage.tables import Tables

ROWS = 5000
"""Of either side, at most."""


class EvidentlyResult(Reference):
    """What Evidently's drift preset says of a column: a score by its method, and whether that is drift to it."""

    score: float
    method: str
    drifted: bool


@dataclass(frozen=True)
class EvidentlyComparison:
    """`page`: HTML that needs no network. `results`: by column; one with no value at all on one side has none."""

    page: str
    results: dict[str, EvidentlyResult]


def thin(rows: pa.Table, most: int = ROWS) -> pa.Table:
    """At most so many rows, evenly spread."""
    return rows.take(pa.array(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))))


def sample_sides(problem: Problem, tables: Tables, version: ModelVersion, span: Window) -> tuple[pa.Table, pa.Table]:
    """Of the rows the champion was fitted to, and of the window (all new rows, where it has no ends), which is read
    part by part: ROWS of either side at most, with the features that are watched."""
    snapshot = load_frame(tables.store, trained_run(problem.name, version.run_id).snapshot)
    names, predictions = list(monitored_features(problem)), Predictions(problem, tables, [])
    fitted = snapshot.filter(pc.not_equal(snapshot["split"], "test")).select(names)
    if span.start is None or span.end is None:
        now = datetime.now(UTC)
        made = predictions.read_new_rows(version, snapshot["id"].combine_chunks(), now - problem.monitoring.window, now)
    else:
        step = predictions.count(span.start, span.end) // ROWS + 1
        parts = predictions.read(span.start, span.end)
        made = predictions.concatenate(part.take(pa.array(np.arange(0, len(part), step))) for part in parts)
    return thin(fitted), thin(made.select(names).cast(fitted.schema))


def run_evidently(reference: pa.Table, window: pa.Table) -> EvidentlyComparison:
    """Both sides with the same columns, thinned already; Evidently's defaults."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, after = reference.to_pandas(), window.to_pandas()
    # A column with no value at all on one side stops Evidently.
    full = [name for name in reference.column_names if before[name].notna().any() and after[name].notna().any()]
    run = Report([DataDriftPreset()]).run(after[full], before[full])
    results = {}
    for metric in run.dict()["metrics"]:
        told = metric["config"]
        if told["type"].endswith(":ValueDrift"):
            results[told["column"]] = _result(float(metric["value"]), told["method"], float(told["threshold"]))
    return EvidentlyComparison(run.get_html_str(as_iframe=False), results)


def _result(score: float, method: str, threshold: float) -> EvidentlyResult:
    """A test's p-value drifts below its threshold, a distance from it on."""
    drifted = score < threshold if method.endswith("p_value") else score >= threshold
    return EvidentlyResult(score=score, method=method, drifted=drifted)
