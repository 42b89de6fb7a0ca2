"""Contributions: a champion explains a sample of each day once, as predictions arrive, by bins of its snapshot.

They are exact SHAP values of the margin, computed again from the features that the model was given.
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
from truecourse.monitoring.drift.profile_builder import count_by_day
from truecourse.monitoring.drift.reference_profile import DailyHistograms, ReferenceProfile
from truecourse.monitoring.predictions.observed import MOMENT, VERSION, Predictions, monitored_features
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import Reference
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables

MAX_ROWS_A_DAY = 100
"""Rows of a day that are explained, at most: each costs about a millisecond."""
MAX_REFERENCE_DAYS = 60
"""The latest days of the reference, as many at most."""


class DayAttributions(Reference):
    """One day's sample: `counts` of its contributions by the bins of all features, their `sums` and the sums of their
    `sizes` by feature. `digest`: of the files that hold the day's rows."""

    digest: str
    counts: tuple[int, ...]
    sums: tuple[float, ...]
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class DailyAttributions:
    """Rows' contributions by day: `side` counts them by bins, `sums` and `sizes` (days, features) add them up."""

    side: DailyHistograms
    sums: Array
    sizes: Array

    @classmethod
    def of(cls, rows: pa.Table, like: DailyHistograms | None = None) -> Self:
        """`rows`: contributions by feature, and MOMENT. By the bins of `like`, or by their own."""
        names = [name for name in rows.column_names if name != MOMENT]
        counted = count_by_day(like.bins if like else learn_bins(rows, names), rows, MOMENT)
        place = np.searchsorted(counted.days, _days(rows))
        values = np.column_stack([rows[name].to_numpy() for name in names])
        sums, sizes = (np.zeros((len(counted.days), len(names))) for _ in range(2))
        np.add.at(sums, place, values)
        np.add.at(sizes, place, np.abs(values))
        return cls(counted, sums, sizes)

    def select(self, chosen: Array) -> "DailyAttributions":
        kept = DailyHistograms(self.side.bins, self.side.days[chosen], Counts(self.side.counts.matrix[chosen]))
        return DailyAttributions(kept, self.sums[chosen], self.sizes[chosen])

    def append(self, later: "DailyAttributions") -> "DailyAttributions":
        """These days, and later ones."""
        days = np.concatenate([self.side.days, later.side.days])
        counts = Counts(np.concatenate([self.side.counts.matrix, later.side.counts.matrix]))
        sums, sizes = (np.concatenate([getattr(one, name) for one in (self, later)]) for name in ("sums", "sizes"))
        return DailyAttributions(DailyHistograms(self.side.bins, days, counts), sums, sizes)

    @property
    def rows(self) -> int:
        return int(self.side.rows().sum())

    def means(self) -> tuple[Array, Array]:
        """Of each feature: the mean contribution, and its mean size."""
        return self.sums.sum(axis=0) / self.rows, self.sizes.sum(axis=0) / self.rows

    def dump(self) -> bytes:
        told = {"side": self.side.to_document(), "sums": self.sums.tolist(), "sizes": self.sizes.tolist()}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes) -> Self:
        told = json.loads(data)
        return cls(DailyHistograms.from_document(told["side"]), np.array(told["sums"]), np.array(told["sizes"]))


@dataclass(frozen=True)
class Explainer:
    """A champion that explains its predictions, and `reference`: what it made of its snapshot's days."""

    problem: Problem
    tables: Tables
    profile: ReferenceProfile
    model: Model
    reference: DailyAttributions

    @classmethod
    def of(cls, problem: Problem, tables: Tables, profile: ReferenceProfile) -> "Explainer | None":
        """None where the log hides a feature of the model."""
        model = registry.open_model(profile.version, problem.kind)
        if set(model.vocabulary.features) - set(monitored_features(problem)):
            return None
        return cls(problem, tables, profile, model, _reference(tables, problem.kind, model, profile))

    def days(self, start: datetime, end: datetime) -> DailyAttributions:
        """From `start` up to but without `end` (naive UTC). A whole day's line is kept for as long as the files that
        hold its rows are the same ones."""
        predictions = Predictions(self.problem, self.tables, [])
        found = [(first, self._line(predictions, first, last)) for first, last in split_days(start, end)]
        days = [(day, line) for day, line in found if line is not None and any(line.counts)]
        like = self.reference.side
        counts = np.array([line.counts for _, line in days], dtype=np.int64).reshape(-1, like.counts.matrix.shape[1])
        counted = DailyHistograms(like.bins, np.array([day for day, _ in days], dtype="datetime64[D]"), Counts(counts))
        width = len(like.bins)
        sums, sizes = (
            np.array([getattr(line, name) for _, line in days]).reshape(-1, width) for name in ("sums", "sizes")
        )
        return DailyAttributions(counted, sums, sizes)

    def _line(self, predictions: Predictions, start: datetime, end: datetime) -> DayAttributions | None:
        digest = predictions.digest(start, end)
        if digest is None:
            return None
        key = f"{_place(self.profile)}/{start:%Y%m%d}.json"
        if end - start == DAY:
            kept = _kept(self.tables, key)
            if kept is not None and kept.digest == digest:
                return kept
        made = self._made(predictions, start, end, digest)
        if end - start == DAY:
            self.tables.store.put(key, made.model_dump_json().encode())
        return made

    def _made(self, predictions: Predictions, start: datetime, end: datetime, digest: str) -> DayAttributions:
        rows = explain(self.problem.kind, self.model, self._sample(predictions, start, end))
        made = DailyAttributions.of(rows, self.reference.side)
        counts, sums, sizes = (each.sum(axis=0).tolist() for each in (made.side.counts.matrix, made.sums, made.sizes))
        return DayAttributions(digest=digest, counts=tuple(counts), sums=tuple(sums), sizes=tuple(sizes))

    def _sample(self, predictions: Predictions, start: datetime, end: datetime) -> pa.Table:
        """Of what the champion predicted, evenly spread, read part by part."""
        step, read, taken = max(1, predictions.count(start, end) // MAX_ROWS_A_DAY), 0, []
        for rows in predictions.read(start, end):
            mine = rows.filter(pc.equal(rows[VERSION], self.profile.version.version))
            taken.append(mine.take(pa.array(np.arange(-read % step, len(mine), step))))
            read += len(mine)
        return thin(predictions.concatenate(taken), MAX_ROWS_A_DAY)


def explain(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    """Contributions of n rows by feature, and their MOMENT."""
    names = model.vocabulary.features
    if not len(rows):
        return pa.table({name: pa.array([], pa.float64()) for name in names}).append_column(MOMENT, rows[MOMENT])
    values = model.contributions(model.vocabulary.encode(columns_of(rows, names)))[..., :-1].astype(np.float64)
    if kind == "multiclass":
        values = np.abs(values).mean(axis=1)
    return pa.table(dict(zip(names, values.T, strict=True))).append_column(MOMENT, rows[MOMENT])


def _place(profile: ReferenceProfile) -> str:
    return f"sketches/{profile.version.problem}/{profile.key[:24]}/contributions"


def _kept(tables: Tables, key: str) -> DayAttributions | None:
    try:
        return DayAttributions.model_validate_json(tables.store.get(key))
    except NotFound:
        return None


def _reference(tables: Tables, kind: Kind, model: Model, profile: ReferenceProfile) -> DailyAttributions:
    """Made once for each champion, of its snapshot's latest days: contributions rest on features alone, which are of
    no other kind in rows that a model was fitted to."""
    key = f"{_place(profile)}/reference.json"
    try:
        return DailyAttributions.load(tables.store.get(key))
    except NotFound:
        frame = load_frame(tables.store, profile.snapshot)
        made = DailyAttributions.of(explain(kind, model, _by_day(frame.append_column(MOMENT, frame["decision_time"]))))
        tables.store.put(key, made.dump())
        return made


def _by_day(rows: pa.Table) -> pa.Table:
    """Of each of the latest days A_DAY rows at most, evenly spread."""
    of = _days(rows)
    places = [np.flatnonzero(of == day) for day in np.unique(of)[-MAX_REFERENCE_DAYS:]]
    return pa.concat_tables(thin(rows.take(pa.array(mine)), MAX_ROWS_A_DAY) for mine in places)


def _days(rows: pa.Table) -> Array:
    return np.asarray(rows[MOMENT].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]"))
