"""Daily counts: each day's predictions counted by the champion's bins, stored so that checks need not read the rows."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.errors import NotFound
from truecourse.monitoring.drift.consecutive_windows import Days
from truecourse.monitoring.drift.histograms import Array, Counts
from truecourse.monitoring.drift.reference_profile import DailyHistograms, ReferenceProfile
from truecourse.monitoring.drift.relations import SUMS, RowSampler, moments
from truecourse.monitoring.drift.unseen_values import UnseenCounter, UnseenValues
from truecourse.monitoring.predictions.observed_predictions import MOMENT, VERSION, Predictions
from truecourse.problem import Problem
from truecourse.references import StoredRecord
from truecourse.storage.delta_tables import Tables
from truecourse.storage.format import get_stored
from truecourse.stored_format import HISTOGRAMS

DAY = timedelta(days=1)


class DayCounts(StoredRecord):
    """Counts of the predictions of one UTC day, or of a part of it.

    `features` and `scores`: rows by bin, the columns concatenated; `scores` only of the champion's predictions,
    `features` of all. `sums`: the sums of the profile's relations, flattened. `odd`: unseen values by column.
    `digest`: of the files with the day's rows."""

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
    """Return the counts of every day with rows from `start` up to, but without, `end` (naive UTC).

    The counts of whole days are stored with a digest of the files that hold their rows. Files are immutable: counts
    are computed anew only when rows arrive late or are rewritten, so that the digest differs. Rows are read part by
    part, in bounded memory."""
    predictions = Predictions(problem, tables, list(profile.scores.bins))
    days = (_read_day(problem, tables, predictions, profile, *span) for span in split_days(start, end))
    return [day for day in days if day is not None and day.rows]


def split_days(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        yield start, min(midnight, end)
        start = midnight


def _read_day(
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
        return _compute(profile, predictions, start, end, digest)
    key = f"{HISTOGRAMS}/{problem.name}/{profile.key[:24]}/{start:%Y%m%d}.json"
    try:
        return _read_stored(tables, key, digest)
    except NotFound:
        computed = _compute(profile, predictions, start, end, digest)
    tables.store.put(key, computed.model_dump_json().encode())
    return computed


@lru_cache(maxsize=512)  # a day's counts are read by each of the next checks
def _read_stored(tables: Tables, key: str, digest: str) -> DayCounts:
    """Read a day's stored counts. Raises NotFound without counts of exactly these files."""
    stored = DayCounts.model_validate_json(get_stored(tables.store, key))
    if stored.digest != digest:
        raise NotFound("the stored counts are of other files", where=key)
    return stored


def _compute(
    profile: ReferenceProfile, predictions: Predictions, start: datetime, end: datetime, digest: str
) -> DayCounts:
    return count_day(profile, predictions.read(start, end), predictions.count(start, end), start, digest)


def count_day(
    profile: ReferenceProfile, parts: Iterable[pa.Table], rows_in_all: int, day: datetime, digest: str = ""
) -> DayCounts:
    """Count a day's rows, given in parts. `rows_in_all`: about how many there are."""
    row_count, unseen, relations = 0, UnseenCounter(profile.seen_values), profile.relations
    sums, sampler = np.zeros((SUMS, len(relations.names)), dtype=np.int64), RowSampler(rows_in_all)
    feature_counts, score_counts = (
        np.zeros(histograms.counts.matrix.shape[1], dtype=np.int64) for histograms in (profile.features, profile.scores)
    )
    for rows in parts:
        row_count += len(rows)
        sums += relations.sums(sampler.take(rows), MOMENT)
        feature_counts += _count_bins(profile.features, rows)
        score_counts += _count_bins(profile.scores, rows.filter(pc.equal(rows[VERSION], profile.version.version)))
        unseen.add(rows)
    return DayCounts(
        day=day,
        digest=digest,
        rows=row_count,
        features=tuple(feature_counts.tolist()),
        scores=tuple(score_counts.tolist()),
        sums=tuple(sums.ravel().tolist()),
        odd=unseen.counts,
    )


def _count_bins(histograms: DailyHistograms, rows: pa.Table) -> Array:
    counted = Counts.of(histograms.bins, rows, np.zeros(len(rows), dtype=np.int64)).matrix
    return np.asarray(counted.sum(axis=0))


def pool(days: list[DayCounts]) -> DayCounts:
    """Add up the counts of several days, under the date of the last. Of several unseen values in a column the commonest
    counts."""
    if len(days) == 1:
        return days[0]
    pooled_unseen: dict[str, UnseenValues] = {}
    for name in sorted({name for day in days for name in day.odd}):
        unseen = [day.odd[name] for day in days if name in day.odd]
        likes = dict.fromkeys(each.like for one in unseen for each in one.split())
        alike = {like: sum(one.rows_like(like) for one in unseen) for like in likes}
        values = dict(sorted(alike.items(), key=lambda pair: -pair[1]))
        like = next(iter(values))
        pooled_unseen[name] = UnseenValues(
            rows=sum(one.rows for one in unseen), like=like, alike=values[like], values=values
        )
    sums = {
        n: tuple(np.sum([getattr(day, n) for day in days], axis=0).tolist()) for n in ("features", "scores", "sums")
    }
    last = days[-1]
    return last.model_copy(update={**sums, "odd": pooled_unseen, "rows": sum(day.rows for day in days), "digest": ""})


def to_days(profile: ReferenceProfile, days: list[DayCounts]) -> Days:
    """Return the feature histograms of the days with their moments."""
    names = profile.relations.names
    sums = np.array([one.sums for one in days], dtype=np.int64).reshape(-1, SUMS, len(names))
    return Days(feature_histograms(profile, days), moments(sums), names)


def feature_histograms(profile: ReferenceProfile, days: list[DayCounts]) -> DailyHistograms:
    return _histograms(profile.features, days, [one.features for one in days])


def score_histograms(profile: ReferenceProfile, days: list[DayCounts]) -> DailyHistograms:
    """Return score histograms of the days with the champion's predictions."""
    scored_days = [one for one in days if any(one.scores)]
    return _histograms(profile.scores, scored_days, [one.scores for one in scored_days])


def _histograms(like: DailyHistograms, days: list[DayCounts], rows_of_counts: list[tuple[int, ...]]) -> DailyHistograms:
    dates = np.array([one.day for one in days], dtype="datetime64[D]")
    counts = np.array(rows_of_counts, dtype=np.int64).reshape(len(rows_of_counts), like.counts.matrix.shape[1])
    return DailyHistograms(like.bins, dates, Counts(counts))
