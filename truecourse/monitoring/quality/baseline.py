"""What a model version is measured by: its days on rows it never learned from, and its hindsight. Made once, kept."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.errors import NotFound
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame, load_manifest
from truecourse.modeling.training import OUT_OF_FOLD, matrix_of, read_out_of_fold, rows_of
from truecourse.monitoring.quality.cohorts import (
    BINS,
    Cohort,
    ScoredRows,
    bins_by_slice,
    closing_time,
    sums_by_bin,
    sums_by_slice,
)
from truecourse.monitoring.quality.label_model import LabelModel, LabelResiduals
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.storage.tables import Tables

FEWEST_DAYS = 7


@dataclass(frozen=True)
class QualityBaseline:
    """`held_out`: days that the model never learned from. `out_of_fold`: days that chose it, with what models said of
    them that had not learned from them. Hindsight learned from neither. `coverage`: the share of decisions that usually
    get a label. `learned`: the last day that the model learned from."""

    edges: Array
    held_out: tuple[Cohort, ...]
    out_of_fold: tuple[Cohort, ...]
    coverage: float
    learned: date
    model: Model
    hindsight: LabelModel | None

    def reference(self, problem: Problem, first: date, at: datetime) -> tuple[tuple[Cohort, ...], str]:
        """Days before `first` that were closed at `at` (naive UTC), and what they are in words. Too few held-out days
        are made up for by out-of-fold predictions; never by days that the model was fitted to, of which it is surer."""
        after = problem.label.closes_after
        days = tuple(one for one in self.held_out if one.day < first and closing_time(one.day, after) <= at)
        if len(days) >= FEWEST_DAYS:
            return days, "held-out days"
        chosen = tuple(one for one in self.out_of_fold if one.day < first and closing_time(one.day, after) <= at)
        words = "days that chose the model, as predicted by models that did not learn from them"
        return (*chosen, *days), words if not days else f"{words}, and held-out days"


def daily_cohorts(
    problem: Problem, frame: pa.Table, labels: Array, output: Array, edges: Array, told: LabelResiduals | None
) -> Iterator[Cohort]:
    """The cohorts of labelled rows, by UTC day."""
    judged = ScoredRows.of(problem.kind, labels, output)
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    for day in np.unique(days):
        mine = np.flatnonzero(days == day)
        part = ScoredRows(
            *(getattr(judged, name)[mine] for name in ("score", "outcome", "loss", "expected", "variance"))
        )
        rows, columns = frame.take(pa.array(mine)), problem.monitoring.slices
        yield Cohort(
            day=day.item(),
            decisions=len(mine),
            labelled=len(mine),
            loss=float(part.loss.sum()),
            expected=float(part.expected.sum()),
            variance=float(part.variance.sum()),
            residual=float((part.outcome - part.score).sum()),
            excess_squares=float(((part.loss - part.expected) ** 2).sum()),
            bins=sums_by_bin(edges, part),
            slices=sums_by_slice(rows, columns, part),
            slice_bins=bins_by_slice(rows, columns, part, edges),
            **(told.summed(mine) if told else {}),
        )


def baseline_prefix(version: ModelVersion) -> str:
    return f"quality/{version.problem}/{version.version}-{version.model_sha256[:12]}"


def load_baseline(problem: Problem, tables: Tables, version: ModelVersion) -> QualityBaseline:
    """Read, or made from the version's snapshot and kept."""
    store, key = tables.store, baseline_prefix(version)
    try:
        return _read(problem.kind, tables, version)
    except NotFound:
        made = _make(problem, tables, version)
    if made.hindsight is not None:
        store.put(f"{key}/hindsight.ubj", made.hindsight.ubj)
    document: dict[str, Any] = {
        "edges": made.edges.tolist(),
        "held_out": [one.model_dump(mode="json") for one in made.held_out],
        "out_of_fold": [one.model_dump(mode="json") for one in made.out_of_fold],
        "coverage": made.coverage,
        "learned": made.learned.isoformat(),
        "hindsight": made.hindsight is not None,
    }
    store.put(f"{key}/yardstick.json", json.dumps(document).encode())
    return made


@lru_cache(maxsize=4)  # the same for as long as the version lives; a replay asks each day
def _read(kind: Kind, tables: Tables, version: ModelVersion) -> QualityBaseline:
    store, key = tables.store, baseline_prefix(version)
    told = json.loads(store.get(f"{key}/yardstick.json"))
    model = registry.open_model(version, kind)
    ubj = store.get(f"{key}/hindsight.ubj") if told["hindsight"] else None
    return QualityBaseline(
        np.array(told["edges"]),
        held_out=tuple(map(Cohort.model_validate, told["held_out"])),
        out_of_fold=tuple(map(Cohort.model_validate, told["out_of_fold"])),
        coverage=told["coverage"],
        learned=date.fromisoformat(told["learned"]),
        model=model,
        hindsight=None if ubj is None else LabelModel(ubj, model.vocabulary),
    )


def _make(problem: Problem, tables: Tables, version: ModelVersion) -> QualityBaseline:
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame, account = load_frame(tables.store, snapshot), load_manifest(tables.store, snapshot).rows
    model = registry.open_model(version, problem.kind)
    fitted, held_out = rows_of(frame, "train", "validate"), rows_of(frame, "test")
    places, said = read_out_of_fold(runs.artifact(version.run_id, OUT_OF_FOLD))
    chosen = frame.take(pa.array(places))
    hindsight = None
    if "known_at" in frame.column_names:
        kept = rows_of(frame, "train") if len(chosen) else fitted
        matrix, labels = matrix_of(model.vocabulary, kept), model.vocabulary.labels(kept)
        hindsight = LabelModel.fit(problem.kind, model.vocabulary, matrix, kept, labels)
    # Edges of scores of rows that it learned from or was chosen by: no held-out row may say where it will be counted.
    outputs = (model.vocabulary.labels(chosen), said) if len(chosen) else labels_and_output(model, fitted)
    edges = np.unique(np.quantile(ScoredRows.of(problem.kind, *outputs).score, np.linspace(0, 1, BINS + 1)[1:-1]))
    sides = []
    for rows, (labels, output) in ((held_out, labels_and_output(model, held_out)), (chosen, outputs)):
        told = None
        if hindsight is not None and len(rows):
            told = hindsight.contradicted(problem.kind, matrix_of(model.vocabulary, rows), rows, labels)
        sides.append(tuple(daily_cohorts(problem, rows, labels, output, edges, told)) if len(rows) else ())
    unlabelled, decided = account.get("unlabelled", 0), account.get("decisions", 0) - account.get("open", 0)
    coverage = 1 - unlabelled / decided if decided else 1.0
    last = pc.max(fitted["decision_time"]).as_py().date()
    return QualityBaseline(edges, sides[0], sides[1], coverage, last, model, hindsight)


def labels_and_output(model: Model, rows: pa.Table) -> tuple[Array, Array]:
    """Labels, and the model's output, float64."""
    return model.vocabulary.labels(rows), model.predict(matrix_of(model.vocabulary, rows)).astype(np.float64)
