"""Daily attributions: contributions of a sample of each day's predictions, counted by the bins of the reference.

They are exact SHAP values of the margin, recomputed from the logged features and stored per day.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import columns_of
from truecourse.errors import NotFound
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.drift.daily_counts import DAY, split_days
from truecourse.monitoring.drift.evidently_report import thin
from truecourse.monitoring.drift.histograms import Array, Counts, learn_bins
from truecourse.monitoring.drift.reference_profile import DailyHistograms, ReferenceProfile, count_by_day
from truecourse.monitoring.predictions.observed_predictions import MOMENT, VERSION, Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import StoredRecord
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.format import get_stored
from truecourse.stored_format import HISTOGRAMS, numbered, read_numbered

MAX_ROWS_A_DAY = 100
"""Maximum rows per day that are explained; each takes about a millisecond."""
MAX_REFERENCE_DAYS = 60
"""Maximum days of the reference: the latest ones of the snapshot."""


class DayAttributions(StoredRecord):
    """Contributions of one day's sample: `counts` by the bins of all features; by feature the `sums` of contributions,
    and `sizes`, the sums of their absolute values. `digest`: of the files with the day's rows."""

    digest: str
    counts: tuple[int, ...]
    sums: tuple[float, ...]
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class DailyAttributions:
    """Contributions by day: `histograms` counts them by bins; `sums` and `sizes`, (days, features), sum them and their
    sizes."""

    histograms: DailyHistograms
    sums: Array
    sizes: Array

    @classmethod
    def of(cls, rows: pa.Table, like: DailyHistograms | None = None) -> Self:
        """Aggregate `rows`: contributions by feature, and MOMENT. Uses the bins of `like`, or learns them."""
        names = [name for name in rows.column_names if name != MOMENT]
        counted = count_by_day(like.bins if like else learn_bins(rows, names), rows, MOMENT)
        place = np.searchsorted(counted.days, _days(rows))
        values = np.column_stack([rows[name].to_numpy() for name in names])
        sums, sizes = (np.zeros((len(counted.days), len(names))) for _ in range(2))
        np.add.at(sums, place, values)
        np.add.at(sizes, place, np.abs(values))
        return cls(counted, sums, sizes)

    def select(self, chosen: Array) -> "DailyAttributions":
        kept = DailyHistograms(
            self.histograms.bins, self.histograms.days[chosen], Counts(self.histograms.counts.matrix[chosen])
        )
        return DailyAttributions(kept, self.sums[chosen], self.sizes[chosen])

    def append(self, later: "DailyAttributions") -> "DailyAttributions":
        """Append later days."""
        days = np.concatenate([self.histograms.days, later.histograms.days])
        counts = Counts(np.concatenate([self.histograms.counts.matrix, later.histograms.counts.matrix]))
        sums, sizes = (np.concatenate([getattr(one, name) for one in (self, later)]) for name in ("sums", "sizes"))
        return DailyAttributions(DailyHistograms(self.histograms.bins, days, counts), sums, sizes)

    @property
    def rows(self) -> int:
        return int(self.histograms.rows().sum())

    def means(self) -> tuple[Array, Array]:
        """Return the mean contribution and the mean absolute contribution of each feature."""
        return self.sums.sum(axis=0) / self.rows, self.sizes.sum(axis=0) / self.rows

    def dump(self) -> bytes:
        document = {"side": self.histograms.to_document(), "sums": self.sums.tolist(), "sizes": self.sizes.tolist()}
        return json.dumps(numbered(document), separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes) -> Self:
        document = read_numbered(data, "the reference attributions")
        return cls(
            DailyHistograms.from_document(document["side"]), np.array(document["sums"]), np.array(document["sizes"])
        )


@dataclass(frozen=True)
class Explainer:
    """Computes a champion's daily attributions. `reference`: those of its snapshot's days."""

    problem: Problem
    tables: Tables
    profile: ReferenceProfile
    model: Model
    reference: DailyAttributions

    @classmethod
    def of(cls, problem: Problem, tables: Tables, profile: ReferenceProfile) -> "Explainer | None":
        """Return the champion's explainer; None if the log hides a feature of the model."""
        model = registry.open_model(profile.version, problem.kind)
        if set(model.vocabulary.features) - set(monitored_features(problem)):
            return None
        return cls(problem, tables, profile, model, _reference(tables, problem.kind, model, profile))

    def days(self, start: datetime, end: datetime) -> DailyAttributions:
        """Return attributions from `start` up to, but without, `end` (naive UTC). Those of a whole day are stored, and
        computed anew only when the files with its rows change."""
        predictions = Predictions(self.problem, self.tables, [])
        attributions = [(first, self._day(predictions, first, last)) for first, last in split_days(start, end)]
        days = [(day, sample) for day, sample in attributions if sample is not None and any(sample.counts)]
        like = self.reference.histograms
        counts = np.array([sample.counts for _, sample in days], dtype=np.int64).reshape(
            -1, like.counts.matrix.shape[1]
        )
        histograms = DailyHistograms(
            like.bins, np.array([day for day, _ in days], dtype="datetime64[D]"), Counts(counts)
        )
        width = len(like.bins)
        sums, sizes = (
            np.array([getattr(sample, name) for _, sample in days]).reshape(-1, width) for name in ("sums", "sizes")
        )
        return DailyAttributions(histograms, sums, sizes)

    def _day(self, predictions: Predictions, start: datetime, end: datetime) -> DayAttributions | None:
        digest = predictions.digest(start, end)
        if digest is None:
            return None
        key = f"{_prefix(self.profile)}/{start:%Y%m%d}.json"
        if end - start == DAY:
            stored = _read_stored(self.tables, key)
            if stored is not None and stored.digest == digest:
                return stored
        computed = self._compute(predictions, start, end, digest)
        if end - start == DAY:
            self.tables.store.put(key, computed.model_dump_json().encode())
        return computed

    def _compute(self, predictions: Predictions, start: datetime, end: datetime, digest: str) -> DayAttributions:
        rows = explain(self.problem.kind, self.model, self._sample(predictions, start, end))
        total = DailyAttributions.of(rows, self.reference.histograms)
        counts, sums, sizes = (
            each.sum(axis=0).tolist() for each in (total.histograms.counts.matrix, total.sums, total.sizes)
        )
        return DayAttributions(digest=digest, counts=tuple(counts), sums=tuple(sums), sizes=tuple(sizes))

    def _sample(self, predictions: Predictions, start: datetime, end: datetime) -> pa.Table:
        """Sample the champion's predictions evenly, reading part by part."""
        step, read, sampled = max(1, predictions.count(start, end) // MAX_ROWS_A_DAY), 0, []
        for rows in predictions.read(start, end):
            champion_rows = rows.filter(pc.equal(rows[VERSION], self.profile.version.version))
            sampled.append(champion_rows.take(pa.array(np.arange(-read % step, len(champion_rows), step))))
            read += len(champion_rows)
        return thin(predictions.concatenate(sampled), MAX_ROWS_A_DAY)


def explain(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    """Compute the contributions of n rows by feature; keeps MOMENT."""
    names = model.vocabulary.features
    if not len(rows):
        return pa.table({name: pa.array([], pa.float64()) for name in names}).append_column(MOMENT, rows[MOMENT])
    values = model.contributions(model.vocabulary.encode(columns_of(rows, names)))[..., :-1].astype(np.float64)
    if kind == "multiclass":
        values = np.abs(values).mean(axis=1)
    return pa.table(dict(zip(names, values.T, strict=True))).append_column(MOMENT, rows[MOMENT])


def _prefix(profile: ReferenceProfile) -> str:
    return f"{HISTOGRAMS}/{profile.version.problem}/{profile.key[:24]}/contributions"


def _read_stored(tables: Tables, key: str) -> DayAttributions | None:
    try:
        return DayAttributions.model_validate_json(get_stored(tables.store, key))
    except NotFound:
        return None


def _reference(tables: Tables, kind: Kind, model: Model, profile: ReferenceProfile) -> DailyAttributions:
    """Load the attributions of the snapshot's latest days, computed once per champion. Training rows serve as well as
    held-out ones, because contributions depend on the features alone."""
    key = f"{_prefix(profile)}/reference.json"
    try:
        return DailyAttributions.load(get_stored(tables.store, key))
    except NotFound:
        frame = load_frame(tables.store, profile.snapshot)
        reference = DailyAttributions.of(
            explain(kind, model, _by_day(frame.append_column(MOMENT, frame["decision_time"])))
        )
        tables.store.put(key, reference.dump())
        return reference


def _by_day(rows: pa.Table) -> pa.Table:
    """Sample at most MAX_ROWS_A_DAY rows of each of the latest days, evenly spread."""
    rows, days = rows.combine_chunks(), _days(rows)
    places = [np.flatnonzero(days == day) for day in np.unique(days)[-MAX_REFERENCE_DAYS:]]
    return pa.concat_tables(thin(rows.take(pa.array(places_of_day)), MAX_ROWS_A_DAY) for places_of_day in places)


def _days(rows: pa.Table) -> Array:
    return np.asarray(rows[MOMENT].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]"))
