"""The Evidently comparison: Evidently's drift page and results on a sample, shown next to our own results."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.compat import evidently_results
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.predictions.observed_predictions import Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Reference, Window
from truecourse.registry.runs import trained_run
from truecourse.storage.delta_tables import Tables

ROWS = 5000
"""Maximum rows per side."""


class EvidentlyResult(Reference):
    """The result of Evidently's drift preset for a column: the score by `method`, and whether it counts as drift."""

    score: float
    method: str
    drifted: bool


@dataclass(frozen=True)
class EvidentlyComparison:
    """`page`: self-contained HTML. `results`: by column, without columns that have no value on one side."""

    page: str
    results: dict[str, EvidentlyResult]


def thin(rows: pa.Table, most: int = ROWS) -> pa.Table:
    """Take at most `most` rows, evenly spread."""
    return rows.take(pa.array(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))))


def sample_sides(problem: Problem, tables: Tables, version: ModelVersion, span: Window) -> tuple[pa.Table, pa.Table]:
    """Sample the champion's training rows and the window (without ends: all new rows), at most ROWS of each, with the
    monitored features. The window is read part by part."""
    snapshot = load_frame(tables.store, trained_run(problem.name, version.run_id).snapshot)
    names, predictions = list(monitored_features(problem, version)), Predictions(problem, tables, [])
    fitted = snapshot.filter(pc.not_equal(snapshot["split"], "test")).select(names)
    if span.start is None or span.end is None:
        now = datetime.now(UTC)
        rows = predictions.read_new_rows(version, snapshot["id"].combine_chunks(), now - problem.monitoring.window, now)
    else:
        step = predictions.count(span.start, span.end) // ROWS + 1
        parts = predictions.read(span.start, span.end)
        rows = predictions.concatenate(part.take(pa.array(np.arange(0, len(part), step))) for part in parts)
    return thin(fitted), thin(rows.select(names).cast(fitted.schema))


def run_evidently(reference: pa.Table, window: pa.Table) -> EvidentlyComparison:
    """Run Evidently's drift preset with its defaults on two samples with the same columns."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, after = reference.to_pandas(), window.to_pandas()
    # Evidently fails on a column without values on one side.
    usable = [name for name in reference.column_names if before[name].notna().any() and after[name].notna().any()]
    run = Report([DataDriftPreset()]).run(after[usable], before[usable])
    results = {
        found.column: _result(found.score, found.method, found.threshold)
        for found in evidently_results.column_drifts(run.dict())
    }
    return EvidentlyComparison(run.get_html_str(as_iframe=False), results)


def _result(score: float, method: str, threshold: float) -> EvidentlyResult:
    """Build a result: a p-value is drift below its threshold, a distance at or above it."""
    drifted = score < threshold if method.endswith("p_value") else score >= threshold
    return EvidentlyResult(score=score, method=method, drifted=drifted)
