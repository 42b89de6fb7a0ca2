"""The quality baseline of a model version: cohorts of rows that it was not trained on, and its label model.

It is computed once from the version's training snapshot and stored."""

import json
from collections.abc import Iterator, Sequence
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
from truecourse.modeling.snapshot import load_frame, load_manifest, load_unlabelled
from truecourse.modeling.training import OUT_OF_FOLD, matrix_of, read_out_of_fold, rows_of
from truecourse.monitoring.quality.cohorts import (
    BINS,
    Cohort,
    ScoredRows,
    bins_by_slice,
    closing_time,
    decisions_by_bin,
    sums_by_bin,
    sums_by_slice,
)
from truecourse.monitoring.quality.label_model import LabelModel, LabelResiduals, evenly_spaced
from truecourse.monitoring.quality.realised_decisions import count_decisions
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.storage.delta_tables import Tables
from truecourse.storage.format import get_stored
from truecourse.stored_format import field_of, numbered, read_numbered

FEWEST_DAYS = 7


@dataclass(frozen=True)
class QualityBaseline:
    """The reference that a version's closed cohorts are compared with.

    `edges`: of the score bins. `held_out`: cohorts of the test days, which the model was neither trained on nor chosen
    by. `out_of_fold`: cohorts of the days that chose its form and rounds, with out-of-fold predictions of them. The
    label model is trained on neither. `coverage`: the share of decisions that usually get a label. `learned_until`: the
    last training day."""

    edges: Array
    held_out: tuple[Cohort, ...]
    out_of_fold: tuple[Cohort, ...]
    coverage: float
    learned_until: date
    model: Model
    label_model: LabelModel | None

    def reference(self, problem: Problem, first: date, at: datetime) -> tuple[tuple[Cohort, ...], str]:
        """Return the days before `first` that were closed at `at` (naive UTC), and a description of them.

        If there are fewer than FEWEST_DAYS held-out days, days with out-of-fold predictions are added. Training days
        are never used: a model's predictions of its training rows are optimistic."""
        after = problem.label.closes_after
        days = tuple(one for one in self.held_out if one.day < first and closing_time(one.day, after) <= at)
        if len(days) >= FEWEST_DAYS:
            return days, "held-out days"
        chosen = tuple(one for one in self.out_of_fold if one.day < first and closing_time(one.day, after) <= at)
        description = "days with out-of-fold predictions"
        return (*chosen, *days), description if not days else f"{description}, and held-out days"

    def label_days(self, reference: Sequence[Cohort], first: date) -> list[Cohort]:
        """Return the baseline days of the label model: the `reference`, after other days before `first` that the label
        model was not trained on."""
        return [*(one for one in self.out_of_fold if one not in reference and one.day < first), *reference]


def daily_cohorts(
    problem: Problem,
    model: Model,
    frame: pa.Table,
    labels: Array,
    output: Array,
    edges: Array,
    residuals: LabelResiduals | None,
) -> Iterator[Cohort]:
    """Yield the cohort of labelled rows of each UTC day."""
    scored = ScoredRows.of(problem.kind, labels, output)
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    for day in np.unique(days):
        positions = np.flatnonzero(days == day)
        part = ScoredRows(
            *(getattr(scored, name)[positions] for name in ("score", "outcome", "loss", "expected", "variance"))
        )
        rows, columns = frame.take(pa.array(positions)), problem.monitoring.slices
        yield Cohort(
            day=day.item(),
            decisions=len(positions),
            labelled=len(positions),
            loss=float(part.loss.sum()),
            expected=float(part.expected.sum()),
            variance=float(part.variance.sum()),
            residual=float((part.outcome - part.score).sum()),
            excess_squares=float(((part.loss - part.expected) ** 2).sum()),
            bins=sums_by_bin(edges, part),
            confusion=count_decisions(model, labels[positions], output[positions]),
            slices=sums_by_slice(rows, columns, part),
            slice_bins=bins_by_slice(rows, columns, part, edges),
            **(residuals.sums(positions) if residuals else {}),
        )


def baseline_prefix(version: ModelVersion) -> str:
    return f"quality/{version.problem}/{version.version}-{version.model_sha256[:12]}"


def load_baseline(problem: Problem, tables: Tables, version: ModelVersion) -> QualityBaseline:
    """Load the version's baseline, or compute it from the version's snapshot and store it."""
    store, key = tables.store, baseline_prefix(version)
    baseline = stored_baseline(problem, tables, version)
    if baseline is not None:
        return baseline
    baseline = _compute(problem, tables, version)
    if baseline.label_model is not None:
        store.put(f"{key}/label_model.ubj", baseline.label_model.ubj)
    document: dict[str, Any] = {
        "edges": baseline.edges.tolist(),
        "held_out": [one.model_dump(mode="json") for one in baseline.held_out],
        "out_of_fold": [one.model_dump(mode="json") for one in baseline.out_of_fold],
        "coverage": baseline.coverage,
        "learned": baseline.learned_until.isoformat(),
        "label_model": baseline.label_model is not None,
    }
    store.put(f"{key}/baseline.json", json.dumps(numbered(document)).encode())
    return baseline


def stored_baseline(problem: Problem, tables: Tables, version: ModelVersion) -> QualityBaseline | None:
    """Load the version's baseline; None if it is not stored yet."""
    try:
        return _read(problem.kind, tables, version)
    except NotFound:
        return None


def rewrite_baseline(data: bytes) -> bytes:
    """Rewrite a stored baseline of an earlier format in today's."""
    document = read_numbered(data, "a quality baseline")
    cohorts = {
        side: [Cohort.model_validate(one).model_dump(mode="json") for one in document[side]]
        for side in ("held_out", "out_of_fold")
    }
    kept = {name: document[name] for name in ("edges", "coverage", "learned")}
    return json.dumps(numbered(kept | cohorts | {"label_model": field_of(document, "label_model")})).encode()


@lru_cache(maxsize=4)  # a stored baseline never changes, and a replay reads it every day
def _read(kind: Kind, tables: Tables, version: ModelVersion) -> QualityBaseline:
    store, key = tables.store, baseline_prefix(version)
    place = f"{key}/baseline.json"
    document = read_numbered(get_stored(store, place), place)
    model = registry.open_model(version, kind)
    ubj = get_stored(store, f"{key}/label_model.ubj") if field_of(document, "label_model") else None
    return QualityBaseline(
        np.array(document["edges"]),
        held_out=tuple(map(Cohort.model_validate, document["held_out"])),
        out_of_fold=tuple(map(Cohort.model_validate, document["out_of_fold"])),
        coverage=document["coverage"],
        learned_until=date.fromisoformat(document["learned"]),
        model=model,
        label_model=None if ubj is None else LabelModel(ubj, model.vocabulary),
    )


def _compute(problem: Problem, tables: Tables, version: ModelVersion) -> QualityBaseline:
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame, account = load_frame(tables.store, snapshot), load_manifest(tables.store, snapshot).rows
    model = registry.open_model(version, problem.kind)
    held_out = rows_of(frame, "test")
    places, predicted = read_out_of_fold(runs.artifact(version.run_id, OUT_OF_FOLD))
    chosen = frame.take(pa.array(places))
    unlabelled = load_unlabelled(tables.store, snapshot)
    label_model = None
    if "known_at" in frame.column_names:
        training_rows = _rows_to_learn(frame, *(("train",) if len(chosen) else ("train", "validate")))
        matrix, labels = matrix_of(model.vocabulary, training_rows), model.vocabulary.labels(training_rows)
        label_model = LabelModel.fit(problem.kind, model.vocabulary, matrix, training_rows, labels)
    # The bin edges come from rows that trained or chose the model: held-out rows must not set the bins they fall into.
    outputs = model.vocabulary.labels(chosen), predicted
    if not len(chosen):
        outputs = labels_and_output(model, rows_of(frame, "train", "validate"))
    edges = np.unique(np.quantile(ScoredRows.of(problem.kind, *outputs).score, np.linspace(0, 1, BINS + 1)[1:-1]))
    sides = []
    for rows, (labels, output) in ((held_out, labels_and_output(model, held_out)), (chosen, outputs)):
        residuals = None
        if label_model is not None and len(rows):
            residuals = label_model.residuals(problem.kind, matrix_of(model.vocabulary, rows), rows, labels)
        cohorts = tuple(daily_cohorts(problem, model, rows, labels, output, edges, residuals)) if len(rows) else ()
        sides.append(_with_decided(problem.kind, model, edges, cohorts, unlabelled))
    unlabelled, decided = account.get("unlabelled", 0), account.get("decisions", 0) - account.get("open", 0)
    coverage = 1 - unlabelled / decided if decided else 1.0
    last = (
        pc.max(rows_of(frame.select(["decision_time", "split"]), "train", "validate")["decision_time"]).as_py().date()
    )
    return QualityBaseline(edges, sides[0], sides[1], coverage, last, model, label_model)


def _rows_to_learn(frame: pa.Table, *sides: str) -> pa.Table:
    """The rows of these sides of the split that the label model is fitted to."""
    places = np.flatnonzero(pc.is_in(frame["split"], pa.array(sides)))
    return frame.take(pa.array(places[evenly_spaced(len(places))]))


def _with_decided(
    kind: Kind, model: Model, edges: Array, cohorts: tuple[Cohort, ...], unlabelled: pa.Table | None
) -> tuple[Cohort, ...]:
    """Count all decisions of each day by score bin, given the `unlabelled` ones; without these, nothing is counted."""
    if unlabelled is None:
        return cohorts
    days = unlabelled["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    counted = []
    for one in cohorts:
        decided = tuple(rows for rows, _, _ in one.bins)
        of_day = unlabelled.filter(pa.array(days == np.datetime64(one.day)))
        if len(of_day):
            output = model.predict(matrix_of(model.vocabulary, of_day)).astype(np.float64)
            without = decisions_by_bin(kind, edges, output)
            decided = tuple(rows + more for rows, more in zip(decided, without, strict=True))
        counted.append(one.model_copy(update={"decided": decided, "decisions": sum(decided)}))
    return tuple(counted)


def labels_and_output(model: Model, rows: pa.Table) -> tuple[Array, Array]:
    """Return the rows' labels and the model's output (float64)."""
    return model.vocabulary.labels(rows), model.predict(matrix_of(model.vocabulary, rows)).astype(np.float64)
