"""Quality of a problem without time: the champion on labelled rows that its training never had, against held-out rows.

No cohort closes where decisions have no time. What can be said is said of rows that came after the snapshot: those
that were scored since, and whose label the table holds under their id.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.modeling.encoding import label_text
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.effective import output_of
from truecourse.monitoring.predictions.labels import known_labels
from truecourse.monitoring.quality.cohorts import BINS, ScoredRows, bin_index
from truecourse.monitoring.quality.label_delay import selection_finding
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORED_AT, predictions_table, score_columns
from truecourse.statistics.intervals import Estimate, difference
from truecourse.statistics.metrics import measure, random_blocks
from truecourse.storage.tables import Tables

FEWEST_ROWS = 30
"""Fewer labelled rows are too few to judge."""
QualityResult = tuple[str, list[Finding], dict[str, Any], bool]
"""The sentence, what was found, the figures, and whether there was enough to judge."""


def check_untimed(problem: Problem, tables: Tables, version: ModelVersion, moment: datetime) -> QualityResult:
    """`moment`: naive UTC; no prediction that was made later is read."""
    frame = load_frame(tables.store, trained_run(problem.name, version.run_id).snapshot)
    model, held_out = registry.open_model(version, problem.kind), rows_of(frame, "test")
    decided, new = _labelled(problem, tables, version, model, frame["id"].combine_chunks(), moment)
    strange, new = _strange(model, new)
    strange += _selective(problem, model, decided, new)
    figures: dict[str, Any] = {"rows": len(new), "reference": f"the {len(held_out):,} held-out rows"}
    if len(new) < FEWEST_ROWS or not len(held_out):
        rows = f"{len(new):,} scored {'row has' if len(new) == 1 else 'rows have'} a label that training did not have"
        said = f"{rows}: too few to judge, {FEWEST_ROWS} are needed. Quality is that of the training report."
        return strange[0].sentence if strange else said, strange, figures, False
    sides = (
        (model.vocabulary.labels(new), output_of(new, model.vocabulary)),
        (model.vocabulary.labels(held_out), model.predict(matrix_of(model.vocabulary, held_out))),
    )
    now, reference = (_measured(problem, *side) for side in sides)
    figures["metrics"] = {
        name: {"now": figure, "reference": reference[name], "difference": difference(figure, reference[name])}
        for name, figure in now.items()
    }
    found = [*strange, *_lost(problem, figures)]
    return found[0].sentence if found else _well(problem, figures), found, figures, True


def _labelled(
    problem: Problem, tables: Tables, version: ModelVersion, model: Model, learned: pa.Array, moment: datetime
) -> tuple[pa.Table, pa.Table]:
    """`id` and the scores of the version's predictions of rows that are not in the snapshot, the last of each id; and
    those, with `label`, that have one in the table."""
    scores = score_columns(problem.kind, model.vocabulary.classes)
    reference = tables.version(predictions_table(problem.name))
    names = ["id", *scores, "label"]
    empty = pa.table({name: pa.array([], pa.string() if name != "label" else pa.null()) for name in names})
    if reference is None:
        return empty, empty
    at = pa.scalar(moment.replace(tzinfo=UTC), UTC_TIME)
    mine = (pc.field(MODEL_VERSION) == version.version) & (pc.field(SCORED_AT) <= at)
    mine &= ~pc.field("id").isin(learned)
    made = tables.read(reference, ["id", *scores, SCORED_AT], mine).sort_by([(SCORED_AT, "ascending")])
    if not len(made):
        return empty, empty
    rows = pl.DataFrame(made).unique("id", keep="last", maintain_order=True)
    labels = known_labels(problem, tables, made["id"], Window(), moment.replace(tzinfo=UTC))
    joined = rows.join(pl.DataFrame(labels), on="id", how="inner", maintain_order="left")
    decided, labelled = (side.to_arrow(compat_level=pl.CompatLevel.oldest()) for side in (rows, joined))
    return decided, labelled.select(names)


def _selective(problem: Problem, model: Model, decided: pa.Table, labelled: pa.Table) -> list[Finding]:
    """Whether the rows that have a label are a fair sample of those decided."""
    if not len(labelled):
        return []
    sides = [output_of(side, model.vocabulary) for side in (decided, labelled)]
    scores = [ScoredRows.of(problem.kind, np.zeros(len(side), dtype=np.int64), side).score for side in sides]
    edges = np.unique(np.quantile(scores[0], np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(bin_index(edges, side), minlength=len(edges) + 1)[None].astype(np.float64) for side in scores]
    found = selection_finding(problem, *counts)
    return [found] if found else []


def _strange(model: Model, rows: pa.Table) -> tuple[list[Finding], pa.Table]:
    """Labels outside the classes that the model knows, and the rows without them."""
    classes = model.vocabulary.classes
    if not classes or not len(rows):
        return [], rows
    text = label_text(rows["label"])
    known = pc.is_in(text, pa.array(classes, pa.string()))
    if pc.all(known).as_py():
        return [], rows
    odd = text.filter(pc.invert(known))
    names = sorted(pc.unique(odd).to_pylist())
    said = f"{len(odd):,} of {len(rows):,} labels are of classes that training never saw: {', '.join(names[:5])}."
    found = Finding(
        check="quality", subject="label", cause="new class", page=True, sentence=said, figures={"classes": names[:50]}
    )
    return [found], rows.filter(known)


def _measured(problem: Problem, labels: Array, output: Array) -> dict[str, Estimate]:
    return measure(problem.kind, labels, output, random_blocks(len(labels)))


def _lost(problem: Problem, figures: dict[str, Any]) -> list[Finding]:
    told = figures["metrics"][problem.metric]
    low, value = told["difference"]["low"], told["difference"]["value"]
    held_out = told["reference"]["value"]
    if low is None or low <= 0 or value <= problem.monitoring.quality.loss * held_out:
        return []
    now, most = told["now"]["value"], told["difference"]["high"]
    said = f"{_named(problem)} is {now:.4g} on {figures['rows']:,} labelled rows that training did not have, "
    said += f"{held_out:.4g} on {figures['reference']}: more by {low:.4g} to {most:.4g}."
    return [
        Finding(
            check="quality", subject=problem.metric, cause="concept drift", page=True, sentence=said,
            figures={"difference": told["difference"]},
        )
    ]  # fmt: skip


def _well(problem: Problem, figures: dict[str, Any]) -> str:
    told = figures["metrics"][problem.metric]
    rows = f"{figures['rows']:,} labelled rows that training did not have"
    said = f"{_named(problem)} is {told['now']['value']:.4g} on {rows}, {told['reference']['value']:.4g} on"
    return f"{said} {figures['reference']}; no loss of quality shows."


def _named(problem: Problem) -> str:
    return {"log_loss": "Log loss", "rmse": "RMSE"}[problem.metric]
