"""Drift of a problem without time: predictions on new rows, compared with the champion's training rows.

New rows are rows of files, rows of the table that are newer than the snapshot, and requests to the endpoint, made since
the last check. Each batch is compared with the training rows on its own, and all of them together: a drifted file must
not be diluted by others.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.times import IN_RANGE
from truecourse.errors import NotFound
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.drift import permutation_test
from truecourse.monitoring.drift.breakage import find_missing_values, find_unseen_values
from truecourse.monitoring.drift.daily_counts import DayCounts
from truecourse.monitoring.drift.permutation_test import Drift
from truecourse.monitoring.drift.reference_profile import score_rows
from truecourse.monitoring.drift.unseen_values import count_unseen, seen_values
from truecourse.monitoring.drift.window_drift import DriftResult, with_public_names
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.observed_predictions import MOMENT, Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import BATCH, predictions_table, score_columns
from truecourse.storage.delta_tables import Tables

MIN_ROWS = 20
"""Rows needed to conclude that nothing drifted."""
SHIPPING_DELAY = timedelta(hours=2)
"""The log is shipped every hour, so the last check may have missed requests of this period before it."""


@dataclass(frozen=True)
class UntimedDrift:
    """Drift of features and scores in the rows with the strongest drift, and breakage in any rows.

    `rows`: number of these rows; `batch`: their batch, empty for several batches. `against`: the rows that the scores
    are compared with. `until`: the scoring time of the newest row (UTC). `fresh`: whether any row is newer than the
    last check."""

    data: DriftResult
    scores: DriftResult
    breakage: list[Finding]
    snapshot: str
    against: str
    rows: int
    batch: str
    until: datetime
    fresh: bool

    @property
    def is_enough(self) -> bool:
        return self.rows >= MIN_ROWS and self.data.snapshot.decidable


def compare_untimed(
    problem: Problem, tables: Tables, version: ModelVersion, at: datetime, mark: datetime | None
) -> UntimedDrift:
    """Compare the predictions since the last check with the training rows.

    `at`: the reference time (UTC); later predictions are not read. `mark`: the watermark of the last check (UTC), None
    without one. Raises NotFound if the champion scored no row besides those of its snapshot."""
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame = load_frame(tables.store, snapshot)
    model = registry.open_model(version, problem.kind)
    predicted, fresh = _new_predictions(problem, tables, model, version, frame["id"].combine_chunks(), at, mark)
    training_rows = frame.filter(pc.not_equal(frame["split"], "test"))
    held_out, against = frame.filter(pc.equal(frame["split"], "test")), "held-out rows"
    if len(held_out) == 0:
        held_out, against = training_rows, "training rows (optimistic): there are no held-out rows"
    reference = _reference(problem, version, model, training_rows, held_out)
    parts = _parts(problem, predicted)
    rate = problem.monitoring.false_alarm_rate / 2 / len(parts)
    results = [(rows, tuple(_compare(problem, before, rows, rate) for before in reference)) for rows in parts.values()]
    # Report the part with the strongest drift; without drift the first one, which is all rows together.
    strongest = max(range(len(results)), key=lambda place: _drift_rank(results[place][1]))
    rows, (data, scores) = results[strongest]
    batches = pc.unique(rows[BATCH])
    broken = {one.key: one for part in parts.values() for one in _find_breakage(problem, reference[0], part)}
    return UntimedDrift(
        DriftResult(data, None, None),
        with_public_names(DriftResult(scores, None, None)),
        list(broken.values()),
        snapshot.sha256,
        against,
        len(rows),
        batches[0].as_py() if len(batches) == 1 else "",
        pc.max(predicted[MOMENT]).as_py(),
        fresh,
    )


def _new_predictions(
    problem: Problem,
    tables: Tables,
    model: Model,
    version: ModelVersion,
    snapshot_ids: pa.Array,
    at: datetime,
    mark: datetime | None,
) -> tuple[pa.Table, bool]:
    """Return the rows predicted since the last check, and whether there are any. At the first check, or with too few
    rows, return those of the last `monitoring.window` instead."""
    predictions = Predictions(problem, tables, score_columns(problem.kind, model.vocabulary.classes))
    new = predictions.read_new_rows(version, snapshot_ids, mark - SHIPPING_DELAY, at) if mark is not None else None
    fresh = new is None or bool(pc.any(pc.greater(new[MOMENT], pa.scalar(mark, new[MOMENT].type))).as_py())
    if new is not None and fresh and len(new) >= MIN_ROWS:
        return new, True
    rows = predictions.read_new_rows(version, snapshot_ids, IN_RANGE[0], at)
    if len(rows) == 0:
        what = "the champion scored no rows besides those of its training snapshot"
        hint = f"truecourse run score --problem {problem.name} --source FILE"
        raise NotFound(what, where=predictions_table(problem.name), hint=hint)
    first = pc.max(rows[MOMENT]).as_py() - problem.monitoring.window
    return rows.filter(pc.greater_equal(rows[MOMENT], pa.scalar(first, rows[MOMENT].type))), fresh


def _find_breakage(problem: Problem, training_rows: pa.Table, rows: pa.Table) -> list[Finding]:
    """Find missing values, new categories and changed units, compared with the training rows."""
    if len(rows) < MIN_ROWS:
        return []
    names = training_rows.column_names
    present_before, present_now = (
        1 - np.array([part[name].null_count / len(part) for name in names]) for part in (training_rows, rows)
    )
    newest = pc.max(rows[MOMENT]).as_py().replace(tzinfo=None)
    unseen = count_unseen(seen_values(training_rows, names), rows)
    group = DayCounts(day=newest, digest="", rows=len(rows), features=(), scores=(), sums=(), odd=unseen)
    return [
        *find_missing_values(problem, names, present_before, present_before, present_now, group),
        *find_unseen_values(problem, [], [], {}, group),
    ]


def _reference(
    problem: Problem, version: ModelVersion, model: Model, training_rows: pa.Table, held_out: pa.Table
) -> tuple[pa.Table, pa.Table]:
    return training_rows.select(list(monitored_features(problem, version))), score_rows(problem.kind, model, held_out)


def _parts(problem: Problem, rows: pa.Table) -> dict[str, pa.Table]:
    """Return all rows, then those of each of the newest batches with enough rows, by batch."""
    batches = rows.group_by(BATCH).aggregate([(MOMENT, "max"), (BATCH, "count")]).to_pylist()
    batches = [one for one in batches if one[f"{BATCH}_count"] >= MIN_ROWS]
    batches.sort(key=lambda one: (one[f"{MOMENT}_max"], one[BATCH]), reverse=True)
    if len(batches) == 1 and batches[0][f"{BATCH}_count"] == len(rows):
        batches = []
    # Only the newest batches are tested on their own: with more, the false-alarm rate of each would be smaller than the
    # smallest p-value that the permutations allow.
    max_batches = int(problem.monitoring.false_alarm_rate / 2 * permutation_test.PERMUTATIONS / 2)
    single = {one[BATCH]: rows.filter(pc.equal(rows[BATCH], one[BATCH])) for one in batches[:max_batches]}
    return {"": rows, **single}


def _drift_rank(results: tuple[Drift, ...]) -> tuple[int, float]:
    columns = [column for part in results for column in part.drifted]
    return len(columns), max((column.psi for column in columns), default=0.0)


def _compare(problem: Problem, reference: pa.Table, rows: pa.Table, rate: float) -> Drift:
    monitoring = problem.monitoring
    return permutation_test.compare(
        reference,
        rows.select(reference.column_names),
        reference.column_names,
        bins=monitoring.bins,
        threshold=monitoring.psi,
        false_alarm_rate=rate,
    )
