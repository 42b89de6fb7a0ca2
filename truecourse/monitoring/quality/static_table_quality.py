"""The quality check of a problem without time: the champion on newly labelled rows, compared with held-out rows.

Decisions without a time form no cohorts. The check uses rows that were scored after the training snapshot, and whose
label the table holds under their id.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.evaluation.decision_report import decision_report
from truecourse.modeling.encoding import label_text
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.labels import read_known_labels
from truecourse.monitoring.predictions.served_predictions import output_of
from truecourse.monitoring.quality.cohorts import BINS, ScoredRows, bin_index
from truecourse.monitoring.quality.label_delay import Selection, coverage_difference, find_selection
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORED_AT, predictions_table, score_columns
from truecourse.statistics.intervals import Estimate, difference
from truecourse.statistics.metrics import measure, random_blocks
from truecourse.storage.delta_tables import Tables

FEWEST_ROWS = 30
"""Labelled rows that the check needs."""
QualityResult = tuple[str, list[Finding], dict[str, Any], bool]
"""The summary sentence, the findings, the figures, and whether there was enough data to decide."""


def check_untimed(problem: Problem, tables: Tables, version: ModelVersion, moment: datetime) -> QualityResult:
    """Compare the champion's metrics on new labelled rows with those on its held-out rows.

    `moment`: naive UTC; later predictions are not read."""
    frame = load_frame(tables.store, trained_run(problem.name, version.run_id).snapshot)
    model, held_out = registry.open_model(version, problem.kind), rows_of(frame, "test")
    decided, new = _labelled(problem, tables, version, model, frame["id"].combine_chunks(), moment)
    findings, new = _check_classes(model, new)
    findings += _check_selection(problem, model, decided, new)
    figures: dict[str, Any] = {"rows": len(new), "reference": f"the {len(held_out):,} held-out rows"}
    if len(new) < FEWEST_ROWS or not len(held_out):
        rows = f"{len(new):,} scored {'row has' if len(new) == 1 else 'rows have'} a label that training did not have"
        message = f"{rows}: too few, {FEWEST_ROWS} are needed. The training report has the quality on held-out rows."
        return findings[0].sentence if findings else message, findings, figures, False
    sides = (
        (model.vocabulary.labels(new), output_of(new, model.vocabulary)),
        (model.vocabulary.labels(held_out), model.predict(matrix_of(model.vocabulary, held_out))),
    )
    now, reference = (_metrics(problem, *side) for side in sides)
    if model.decision is not None:
        now, reference = (
            side | _decision_metrics(model, *rows) for side, rows in zip((now, reference), sides, strict=True)
        )
    figures["metrics"] = {
        name: {"now": figure, "reference": reference[name], "difference": difference(figure, reference[name])}
        for name, figure in now.items()
    }
    findings += _degradation(problem, figures)
    return findings[0].sentence if findings else _summary(problem, figures), findings, figures, True


def _labelled(
    problem: Problem, tables: Tables, version: ModelVersion, model: Model, learned: pa.Array, moment: datetime
) -> tuple[pa.Table, pa.Table]:
    """Return the version's predictions of rows outside the snapshot, and those of them with a label in the table.

    Both have `id` and the scores, of the last prediction of each id; the second also has `label`. `learned`: the ids of
    the snapshot."""
    scores = score_columns(problem.kind, model.vocabulary.classes)
    reference = tables.version(predictions_table(problem.name))
    names = ["id", *scores, "label"]
    empty = pa.table({name: pa.array([], pa.string() if name != "label" else pa.null()) for name in names})
    if reference is None:
        return empty, empty
    at = pa.scalar(moment.replace(tzinfo=UTC), UTC_TIME)
    condition = (pc.field(MODEL_VERSION) == version.version) & (pc.field(SCORED_AT) <= at)
    condition &= ~pc.field("id").isin(learned)
    predictions = tables.read(reference, ["id", *scores, SCORED_AT], condition).sort_by([(SCORED_AT, "ascending")])
    if not len(predictions):
        return empty, empty
    rows = pl.DataFrame(predictions).unique("id", keep="last", maintain_order=True)
    labels = read_known_labels(problem, tables, predictions["id"], Window(), moment.replace(tzinfo=UTC))
    joined = rows.join(pl.DataFrame(labels), on="id", how="inner", maintain_order="left")
    decided, labelled = (side.to_arrow(compat_level=pl.CompatLevel.oldest()) for side in (rows, joined))
    return decided, labelled.select(names)


def _check_selection(problem: Problem, model: Model, decided: pa.Table, labelled: pa.Table) -> list[Finding]:
    """Check whether the labelled rows are an unbiased sample of the scored rows."""
    if not len(labelled):
        return []
    sides = [output_of(side, model.vocabulary) for side in (decided, labelled)]
    scores = [ScoredRows.of(problem.kind, np.zeros(len(side), dtype=np.int64), side).score for side in sides]
    edges = np.unique(np.quantile(scores[0], np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(bin_index(edges, side), minlength=len(edges) + 1)[None].astype(np.float64) for side in scores]
    share, usual, error = coverage_difference(counts[0], counts[1])
    return find_selection(problem, Selection(share, usual, error))


def _check_classes(model: Model, rows: pa.Table) -> tuple[list[Finding], pa.Table]:
    """Report labels of unseen classes; return the findings and the rows without these labels."""
    classes = model.vocabulary.classes
    if not classes or not len(rows):
        return [], rows
    text = label_text(rows["label"])
    known = pc.is_in(text, pa.array(classes, pa.string()))
    if pc.all(known).as_py():
        return [], rows
    unseen = text.filter(pc.invert(known))
    names = sorted(pc.unique(unseen).to_pylist())
    message = f"{len(unseen):,} of {len(rows):,} labels are of classes unseen in training: {', '.join(names[:5])}."
    figures = {"classes": names[:50]}
    finding = Finding(check="quality", subject="label", cause="new class", page=True, sentence=message, figures=figures)
    return [finding], rows.filter(known)


def _metrics(problem: Problem, labels: Array, output: Array) -> dict[str, Estimate]:
    return measure(problem.kind, labels, output, random_blocks(len(labels)))


def _decision_metrics(model: Model, labels: Array, output: Array) -> dict[str, Estimate]:
    report = decision_report(model, labels, output, random_blocks(len(labels)), in_time=False)
    realised = ("cost", "precision", "recall", "positive_share")
    return {name: figure for name, figure in report["metrics"].items() if name in realised} if report else {}


def _degradation(problem: Problem, figures: dict[str, Any]) -> list[Finding]:
    metric = figures["metrics"][problem.metric]
    low, value = metric["difference"]["low"], metric["difference"]["value"]
    held_out = metric["reference"]["value"]
    if low is None or low <= 0 or value <= problem.monitoring.quality.loss * held_out:
        return []
    now, high = metric["now"]["value"], metric["difference"]["high"]
    message = f"{_metric_name(problem)} is {now:.4g} on {figures['rows']:,} labelled rows that training did not have, "
    message += f"{held_out:.4g} on {figures['reference']}: higher by {low:.4g} to {high:.4g} (95% interval)."
    return [
        Finding(
            check="quality", subject=problem.metric, cause="concept drift", page=True, sentence=message,
            figures={"difference": metric["difference"]},
        )
    ]  # fmt: skip


def _summary(problem: Problem, figures: dict[str, Any]) -> str:
    metric = figures["metrics"][problem.metric]
    rows = f"{figures['rows']:,} labelled rows that training did not have"
    now, before = metric["now"]["value"], metric["reference"]["value"]
    summary = f"{_metric_name(problem)} is {now:.4g} on {rows}, {before:.4g} on {figures['reference']}"
    return f"{summary}; no loss of quality found."


def _metric_name(problem: Problem) -> str:
    return {"log_loss": "Log loss", "rmse": "RMSE"}[problem.metric]
