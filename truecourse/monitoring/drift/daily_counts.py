"""Sketches: a day's predictions counted by a champion's bins, written once: a check reads them, not the rows."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.errors import NotFound
from truecourse.monitoring.drift.consecutive_windows import Days
from truecourse.monitoring.drift.histograms import Array, Counts
from truecourse.monitoring.drift.novelty import UnseenCounter, UnseenValues
from truecourse.monitoring.drift.reference_profile import DailyHistograms, ReferenceProfile
from truecourse.monitoring.drift.relations import SUMS, RowSampler, moments
from truecourse.monitoring.predictions.observed import MOMENT, VERSION, Predictions
from truecourse.problem import Problem
from truecourse.references import Reference
from truecourse.storage.tables import Tables

DAY = timedelta(days=1)


class DayCounts(Reference):
    """Rows of one UTC day, or of a part of it. `features` and `scores`: rows by the bins of all columns, one after the
    other; `scores` are those of the champion alone, `features` everybody's. `sums`: of the champion's relations, one
    line after the other. `digest`: of the files they were in."""

    day: datetime
    digest: str
    rows: int
    features: tuple[int, ...]
    scores: tuple[int, ...]
    sums: tuple[int, ...]
    odd: dict[str, UnseenValues]


def read_daily_counts(
    problem: Problem, tables: Tables, profile: ReferenceProfile, start: datetime, end: datetime
) -> list[DayCounts]:
    """Of every day from `start` up to but without `end` (naive UTC) that has rows.

    A whole day's is kept, with the digest of the files that hold its rows. Files are never changed: while they are the
    same ones the sketch holds, and once rows arrive late or are written again it is made anew, in its place. What has
    none is read part by part, in bounded memory."""
    predictions = Predictions(problem, tables, list(profile.scores.bins))
    found = (_sketch(problem, tables, predictions, profile, *span) for span in split_days(start, end))
    return [sketch for sketch in found if sketch is not None and sketch.rows]


def split_days(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        yield start, min(midnight, end)
        start = midnight


def _sketch(
    problem: Problem,
    tables: Tables,
    predictions: Predictions,
    profile: ReferenceProfile,
    start: datetime,
    end: datetime,
) -> DayCounts | None:
    digest = predictions.digest(start, end)
    if digest is None:
        return None
    if end - start < DAY:
        return _read(profile, predictions, start, end, digest)
    key = f"sketches/{problem.name}/{profile.key[:24]}/{start:%Y%m%d}.json"
    kept = _kept(tables, key)
    if kept is not None and kept.digest == digest:
        return kept
    made = _read(profile, predictions, start, end, digest)
    tables.store.put(key, made.model_dump_json().encode())
    return made


def _kept(tables: Tables, key: str) -> DayCounts | None:
    try:
        return DayCounts.model_validate_json(tables.store.get(key))
    except NotFound:
        return None


def _read(
    profile: ReferenceProfile, predictions: Predictions, start: datetime, end: datetime, digest: str
) -> DayCounts:
    return count_day(profile, predictions.read(start, end), predictions.count(start, end), start, digest)


def count_day(
    profile: ReferenceProfile, parts: Iterable[pa.Table], rows_in_all: int, day: datetime, digest: str = ""
) -> DayCounts:
    """Of the day's rows, in parts: about `rows_in_all` of them."""
    count, odd, relations = 0, UnseenCounter(profile.seen_values), profile.relations
    sums, taken = np.zeros((SUMS, len(relations.names)), dtype=np.int64), RowSampler(rows_in_all)
    seen, scored = (
        np.zeros(side.counts.matrix.shape[1], dtype=np.int64) for side in (profile.features, profile.scores)
    )
    for rows in parts:
        count += len(rows)
        sums += relations.sums(taken.take(rows), MOMENT)
        seen += _line(profile.features, rows)
        scored += _line(profile.scores, rows.filter(pc.equal(rows[VERSION], profile.version.version)))
        odd.add(rows)
    return DayCounts(
        day=day,
        digest=digest,
        rows=count,
        features=tuple(seen.tolist()),
        scores=tuple(scored.tolist()),
        sums=tuple(sums.ravel().tolist()),
        odd=odd.counts,
    )


def _line(side: DailyHistograms, rows: pa.Table) -> Array:
    counted = Counts.of(side.bins, rows, np.zeros(len(rows), dtype=np.int64)).matrix
    return np.asarray(counted.sum(axis=0))


def pool(found: list[DayCounts]) -> DayCounts:
    """Days taken together, under the last one's date. Of two kinds of unknown values in a column the commoner is
    kept."""
    if len(found) == 1:
        return found[0]
    odd: dict[str, UnseenValues] = {}
    for name in sorted({name for one in found for name in one.odd}):
        mine = [one.odd[name] for one in found if name in one.odd]
        likes = dict.fromkeys(each.like for one in mine for each in one.split())
        alike = {like: sum(one.rows_like(like) for one in mine) for like in likes}
        values = dict(sorted(alike.items(), key=lambda pair: -pair[1]))
        like = next(iter(values))
        odd[name] = UnseenValues(rows=sum(one.rows for one in mine), like=like, alike=values[like], values=values)
    lines = {
        n: tuple(np.sum([getattr(one, n) for one in found], axis=0).tolist()) for n in ("features", "scores", "sums")
    }
    last = found[-1]
    return last.model_copy(update={**lines, "odd": odd, "rows": sum(one.rows for one in found), "digest": ""})


def to_days(profile: ReferenceProfile, found: list[DayCounts]) -> Days:
    """The features of the days, with their moments."""
    names = profile.relations.names
    sums = np.array([one.sums for one in found], dtype=np.int64).reshape(-1, SUMS, len(names))
    return Days(feature_histograms(profile, found), moments(sums), names)


def feature_histograms(profile: ReferenceProfile, found: list[DayCounts]) -> DailyHistograms:
    return _side(profile.features, found, [one.features for one in found])


def score_histograms(profile: ReferenceProfile, found: list[DayCounts]) -> DailyHistograms:
    """Of the days on which the champion scored."""
    mine = [one for one in found if any(one.scores)]
    return _side(profile.scores, mine, [one.scores for one in mine])


def _side(like: DailyHistograms, found: list[DayCounts], lines: list[tuple[int, ...]]) -> DailyHistograms:
    days = np.array([one.day for one in found], dtype="datetime64[D]")
    counts = np.array(lines, dtype=np.int64).reshape(len(lines), like.counts.matrix.shape[1])
    return DailyHistograms(like.bins, days, Counts(counts))
