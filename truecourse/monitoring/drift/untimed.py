"""Drift of a problem without time: what was predicted of new rows, against the rows that the champion was fitted to.

New rows are those of files, rows of the table that came after the snapshot, and the endpoint's answers, that came since
the last check by their own time. Each batch of them is held against the training rows by itself, and all of them
together: one file that moved far is not diluted by many that did not.
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
from truecourse.monitoring.drift.novelty import count_unseen, seen_values
from truecourse.monitoring.drift.permutation_test import Drift
from truecourse.monitoring.drift.profile_builder import model_scores
from truecourse.monitoring.drift.windows import DriftResult, with_public_names
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.observed import MOMENT, Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import BATCH, predictions_table, score_columns
from truecourse.storage.tables import Tables

MIN_ROWS = 20
"""Of fewer rows, that nothing is found tells nothing."""
SHIPPING_DELAY = timedelta(hours=2)
"""The log is shipped every hour: so long before the last check rows may have come that it did not see."""


@dataclass(frozen=True)
class UntimedDrift:
    """What moved, of features and of scores, in the rows that show it most, and what broke in any. `rows`: how many
    those are; `batch`: their batch, empty where they are of several. `against`: what the scores are compared with.
    `until`: when the newest of them was scored (UTC); `fresh`: whether any came since the last check."""

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
    """`at` (UTC): nothing scored later is read. `mark` (UTC): up to where the last check looked, if there was
    one. Raises NotFound where the champion scored no row that its snapshot does not have."""
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame = load_frame(tables.store, snapshot)
    model = registry.open_model(version, problem.kind)
    made, fresh = _new_predictions(problem, tables, model, version, frame["id"].combine_chunks(), at, mark)
    fitted = frame.filter(pc.not_equal(frame["split"], "test"))
    unseen, against = frame.filter(pc.equal(frame["split"], "test")), "held-out rows"
    if len(unseen) == 0:
        unseen, against = fitted, "rows the model was fitted to, of which it is surer: there are no others"
    reference = _reference(problem, model, fitted, unseen)
    parts = _parts(problem, made)
    rate = problem.monitoring.false_alarm_rate / 2 / len(parts)
    judged = [(rows, tuple(_compared(problem, before, rows, rate) for before in reference)) for rows in parts.values()]
    # What moved most is shown; where nothing did, all of it together, which is the first.
    most = max(range(len(judged)), key=lambda place: _drifted(judged[place][1]))
    rows, (data, scores) = judged[most]
    batches = pc.unique(rows[BATCH])
    broken = {one.key: one for part in parts.values() for one in _broken(problem, reference[0], part)}
    return UntimedDrift(
        DriftResult(data, None, None),
        with_public_names(DriftResult(scores, None, None)),
        list(broken.values()),
        snapshot.sha256,
        against,
        len(rows),
        batches[0].as_py() if len(batches) == 1 else "",
        pc.max(made[MOMENT]).as_py(),
        fresh,
    )


def _new_predictions(
    problem: Problem,
    tables: Tables,
    model: Model,
    version: ModelVersion,
    learned: pa.Array,
    at: datetime,
    mark: datetime | None,
) -> tuple[pa.Table, bool]:
    """What came since the last check, and whether anything did. At the first check, and where it is too little, the
    newest `monitoring.window` of all that came."""
    predictions = Predictions(problem, tables, score_columns(problem.kind, model.vocabulary.classes))
    new = predictions.read_new_rows(version, learned, mark - SHIPPING_DELAY, at) if mark is not None else None
    fresh = new is None or bool(pc.any(pc.greater(new[MOMENT], pa.scalar(mark, new[MOMENT].type))).as_py())
    if new is not None and fresh and len(new) >= MIN_ROWS:
        return new, True
    made = predictions.read_new_rows(version, learned, IN_RANGE[0], at)
    if len(made) == 0:
        what = "the champion scored no rows but those of its training table, which are no news"
        hint = f"truecourse run score --problem {problem.name} --source FILE"
        raise NotFound(what, where=predictions_table(problem.name), hint=hint)
    first = pc.max(made[MOMENT]).as_py() - problem.monitoring.window
    return made.filter(pc.greater_equal(made[MOMENT], pa.scalar(first, made[MOMENT].type))), fresh


def _broken(problem: Problem, fitted: pa.Table, rows: pa.Table) -> list[Finding]:
    """Values that are missing, new categories and changed units, against the training rows."""
    if len(rows) < MIN_ROWS:
        return []
    names = fitted.column_names
    usual, now = (1 - np.array([part[name].null_count / len(part) for name in names]) for part in (fitted, rows))
    newest = pc.max(rows[MOMENT]).as_py().replace(tzinfo=None)
    odd = count_unseen(seen_values(fitted, names), rows)
    unit = DayCounts(day=newest, digest="", rows=len(rows), features=(), scores=(), sums=(), odd=odd)
    return [
        *find_missing_values(problem, names, usual, usual, now, unit),
        *find_unseen_values(problem, [], [], {}, unit),
    ]


def _reference(problem: Problem, model: Model, fitted: pa.Table, unseen: pa.Table) -> tuple[pa.Table, pa.Table]:
    return fitted.select(list(monitored_features(problem))), model_scores(problem.kind, model, unseen)


def _parts(problem: Problem, made: pa.Table) -> dict[str, pa.Table]:
    """All rows, then those of each of the newest batches with rows enough."""
    recent = made
    batches = recent.group_by(BATCH).aggregate([(MOMENT, "max"), (BATCH, "count")]).to_pylist()
    batches = [one for one in batches if one[f"{BATCH}_count"] >= MIN_ROWS]
    batches.sort(key=lambda one: (one[f"{MOMENT}_max"], one[BATCH]), reverse=True)
    if len(batches) == 1 and batches[0][f"{BATCH}_count"] == len(recent):
        batches = []
    # The newest are looked at by themselves: with more, each one's part of the false-alarm rate would be less than any
    # p-value that so many permutations can give.
    most = int(problem.monitoring.false_alarm_rate / 2 * permutation_test.PERMUTATIONS / 2)
    single = {one[BATCH]: recent.filter(pc.equal(recent[BATCH], one[BATCH])) for one in batches[:most]}
    return {"": recent, **single}


def _drifted(found: tuple[Drift, ...]) -> tuple[int, float]:
    columns = [column for part in found for column in part.drifted]
    return len(columns), max((column.psi for column in columns), default=0.0)


def _compared(problem: Problem, reference: pa.Table, made: pa.Table, rate: float) -> Drift:
    monitoring = problem.monitoring
    return permutation_test.compare(
        reference,
        made.select(reference.column_names),
        reference.column_names,
        bins=monitoring.bins,
        threshold=monitoring.psi,
        false_alarm_rate=rate,
    )
