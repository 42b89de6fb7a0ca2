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

from truecourse import registry
from truecourse.encoding import Array
from truecourse.errors import NotFound
from truecourse.model import Model
from truecourse.monitoring.cohorts import BINS, Cohort, Judged, bins_by_slice, closes, sums_by_bin, sums_by_slice
from truecourse.monitoring.hindsight import Contradiction, Hindsight
from truecourse.problem import Kind, Problem
from truecourse.references import ModelVersion
from truecourse.runs import trained_run
from truecourse.snapshot import load_frame, load_manifest
from truecourse.tables import Tables
from truecourse.training import matrix_of, rows_of

FEWEST_DAYS = 7
_LEFT_OUT = 4
"""Every fourth day that the model was fitted to is left out of hindsight: its usual residuals are of days it never
saw."""


@dataclass(frozen=True)
class Yardstick:
    """`held_out`: days that the model never learned from; `fitted`: days that it did, on which hindsight is usual.
    `coverage`: the share of decisions that usually get a label. `learned`: the last day that the model learned from."""

    edges: Array
    held_out: tuple[Cohort, ...]
    fitted: tuple[Cohort, ...]
    coverage: float
    learned: date
    model: Model
    hindsight: Hindsight | None

    def reference(self, problem: Problem, first: date, at: datetime) -> tuple[tuple[Cohort, ...], str]:
        """Days before `first` that were closed at `at` (naive UTC), and what they are in words. Too few held-out days
        are made up for by days that the model was fitted to, of which it is surer."""
        after = problem.label.closes_after
        days = tuple(one for one in self.held_out if one.day < first and closes(one.day, after) <= at)
        if len(days) >= FEWEST_DAYS:
            return days, "held-out days"
        return self.fitted, "days that it was fitted to, of which it is surer"


def day_sums(
    problem: Problem, frame: pa.Table, labels: Array, output: Array, edges: Array, told: Contradiction | None
) -> Iterator[Cohort]:
    """The cohorts of labelled rows, by UTC day."""
    judged = Judged.of(problem.kind, labels, output)
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    for day in np.unique(days):
        mine = np.flatnonzero(days == day)
        part = Judged(*(getattr(judged, name)[mine] for name in ("score", "outcome", "loss", "expected", "variance")))
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


def place(version: ModelVersion) -> str:
    return f"quality/{version.problem}/{version.version}-{version.model_sha256[:12]}"


def yardstick(problem: Problem, tables: Tables, version: ModelVersion) -> Yardstick:
    """Read, or made from the version's snapshot and kept."""
    store, key = tables.store, place(version)
    try:
        return _read(problem.kind, tables, version)
    except NotFound:
        made = _make(problem, tables, version)
    if made.hindsight is not None:
        store.put(f"{key}/hindsight.ubj", made.hindsight.ubj)
    document: dict[str, Any] = {
        "edges": made.edges.tolist(),
        "held_out": [one.model_dump(mode="json") for one in made.held_out],
        "fitted": [one.model_dump(mode="json") for one in made.fitted],
        "coverage": made.coverage,
        "learned": made.learned.isoformat(),
        "hindsight": made.hindsight is not None,
    }
    store.put(f"{key}/yardstick.json", json.dumps(document).encode())
    return made


@lru_cache(maxsize=4)  # the same for as long as the version lives; a replay asks each day
def _read(kind: Kind, tables: Tables, version: ModelVersion) -> Yardstick:
    store, key = tables.store, place(version)
    told = json.loads(store.get(f"{key}/yardstick.json"))
    model = registry.open_model(version, kind)
    ubj = store.get(f"{key}/hindsight.ubj") if told["hindsight"] else None
    return Yardstick(
        np.array(told["edges"]),
        held_out=tuple(map(Cohort.model_validate, told["held_out"])),
        fitted=tuple(map(Cohort.model_validate, told["fitted"])),
        coverage=told["coverage"],
        learned=date.fromisoformat(told["learned"]),
        model=model,
        hindsight=None if ubj is None else Hindsight(ubj, model.vocabulary),
    )


def _make(problem: Problem, tables: Tables, version: ModelVersion) -> Yardstick:
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame, account = load_frame(tables.store, snapshot), load_manifest(tables.store, snapshot).rows
    model = registry.open_model(version, problem.kind)
    fitted, held_out = rows_of(frame, "train", "validate"), rows_of(frame, "test")
    kept, left_out = _parted(fitted)
    hindsight = None
    if "known_at" in frame.column_names:
        matrix, labels = matrix_of(model.vocabulary, kept), model.vocabulary.labels(kept)
        hindsight = Hindsight.fit(problem.kind, model.vocabulary, matrix, kept, labels)
    # Edges of scores of rows it was fitted to: no held-out row may say where it will be counted.
    scores = Judged.of(problem.kind, *judged_by(model, left_out)).score
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1)[1:-1]))
    sides = []
    for rows in (held_out, left_out):
        labels, output = judged_by(model, rows)
        told = None
        if hindsight is not None:
            told = hindsight.contradicted(problem.kind, matrix_of(model.vocabulary, rows), rows, labels)
        sides.append(tuple(day_sums(problem, rows, labels, output, edges, told)))
    unlabelled, decided = account.get("unlabelled", 0), account.get("decisions", 0) - account.get("open", 0)
    coverage = 1 - unlabelled / decided if decided else 1.0
    last = pc.max(fitted["decision_time"]).as_py().date()
    return Yardstick(edges, sides[0], sides[1], coverage, last, model, hindsight)


def judged_by(model: Model, rows: pa.Table) -> tuple[Array, Array]:
    """Labels, and the model's output, float64."""
    return model.vocabulary.labels(rows), model.predict(matrix_of(model.vocabulary, rows)).astype(np.float64)


def _parted(fitted: pa.Table) -> tuple[pa.Table, pa.Table]:
    days = fitted["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]").astype(np.int64)
    left = days % _LEFT_OUT == 0
    if left.all() or not left.any():  # decisions of one weekday, or of few days
        left = np.unique(days, return_inverse=True)[1] % _LEFT_OUT == 0
    if left.all():
        return fitted, fitted
    return fitted.filter(pa.array(~left)), fitted.filter(pa.array(left))
