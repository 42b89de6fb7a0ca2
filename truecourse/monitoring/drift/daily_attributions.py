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
from truecourse.monitoring.drift.daily_counts import DAY, spans
from truecourse.monitoring.drift.evidently_report import thinned
from truecourse.monitoring.drift.histograms import Array, Counts, learn
from truecourse.monitoring.drift.profile_builder import side
from truecourse.monitoring.drift.reference_profile import Frozen, Side
from truecourse.monitoring.predictions.observed import MOMENT, VERSION, Predictions, watched
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import Reference
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables

A_DAY = 100
"""Rows of a day that are explained, at most: each costs about a millisecond."""
DAYS = 60
"""The latest days of the reference, as many at most."""


class Line(Reference):
    """One day's sample: `counts` of its contributions by the bins of all features, their `sums` and the sums of their
    `sizes` by feature. `digest`: of the files that hold the day's rows."""

    digest: str
    counts: tuple[int, ...]
    sums: tuple[float, ...]
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class Explained:
    """Rows' contributions by day: `side` counts them by bins, `sums` and `sizes` (days, features) add them up."""

    side: Side
    sums: Array
    sizes: Array

    @classmethod
    def of(cls, rows: pa.Table, like: Side | None = None) -> Self:
        """`rows`: contributions by feature, and MOMENT. By the bins of `like`, or by their own."""
        names = [name for name in rows.column_names if name != MOMENT]
        counted = side(like.bins if like else learn(rows, names), rows, MOMENT)
        place = np.searchsorted(counted.days, _days(rows))
        values = np.column_stack([rows[name].to_numpy() for name in names])
        sums, sizes = (np.zeros((len(counted.days), len(names))) for _ in range(2))
        np.add.at(sums, place, values)
        np.add.at(sizes, place, np.abs(values))
        return cls(counted, sums, sizes)

    def only(self, chosen: Array) -> "Explained":
        kept = Side(self.side.bins, self.side.days[chosen], Counts(self.side.counts.matrix[chosen]))
        return Explained(kept, self.sums[chosen], self.sizes[chosen])

    def then(self, later: "Explained") -> "Explained":
        """These days, and later ones."""
        days = np.concatenate([self.side.days, later.side.days])
        counts = Counts(np.concatenate([self.side.counts.matrix, later.side.counts.matrix]))
        sums, sizes = (np.concatenate([getattr(one, name) for one in (self, later)]) for name in ("sums", "sizes"))
        return Explained(Side(self.side.bins, days, counts), sums, sizes)

    @property
    def rows(self) -> int:
        return int(self.side.rows().sum())

    def means(self) -> tuple[Array, Array]:
        """Of each feature: the mean contribution, and its mean size."""
        return self.sums.sum(axis=0) / self.rows, self.sizes.sum(axis=0) / self.rows

    def dump(self) -> bytes:
        told = {"side": self.side.told(), "sums": self.sums.tolist(), "sizes": self.sizes.tolist()}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes) -> Self:
        told = json.loads(data)
        return cls(Side.read(told["side"]), np.array(told["sums"]), np.array(told["sizes"]))


@dataclass(frozen=True)
class Explainer:
    """A champion that explains its predictions, and `reference`: what it made of its snapshot's days."""

    problem: Problem
    tables: Tables
    frozen: Frozen
    model: Model
    reference: Explained

    @classmethod
    def of(cls, problem: Problem, tables: Tables, frozen: Frozen) -> "Explainer | None":
        """None where the log hides a feature of the model."""
        model = registry.open_model(frozen.version, problem.kind)
        if set(model.vocabulary.features) - set(watched(problem)):
            return None
        return cls(problem, tables, frozen, model, _reference(tables, problem.kind, model, frozen))

    def days(self, start: datetime, end: datetime) -> Explained:
        """From `start` up to but without `end` (naive UTC). A whole day's line is kept for as long as the files that
        hold its rows are the same ones."""
        predictions = Predictions(self.problem, self.tables, [])
        found = [(first, self._line(predictions, first, last)) for first, last in spans(start, end)]
        days = [(day, line) for day, line in found if line is not None and any(line.counts)]
        like = self.reference.side
        counts = np.array([line.counts for _, line in days], dtype=np.int64).reshape(-1, like.counts.matrix.shape[1])
        counted = Side(like.bins, np.array([day for day, _ in days], dtype="datetime64[D]"), Counts(counts))
        width = len(like.bins)
        sums, sizes = (
            np.array([getattr(line, name) for _, line in days]).reshape(-1, width) for name in ("sums", "sizes")
        )
        return Explained(counted, sums, sizes)

    def _line(self, predictions: Predictions, start: datetime, end: datetime) -> Line | None:
        digest = predictions.digest(start, end)
        if digest is None:
            return None
        key = f"{_place(self.frozen)}/{start:%Y%m%d}.json"
        if end - start == DAY:
            kept = _kept(self.tables, key)
            if kept is not None and kept.digest == digest:
                return kept
        made = self._made(predictions, start, end, digest)
        if end - start == DAY:
            self.tables.store.put(key, made.model_dump_json().encode())
        return made

    def _made(self, predictions: Predictions, start: datetime, end: datetime, digest: str) -> Line:
        rows = explained(self.problem.kind, self.model, self._sample(predictions, start, end))
        made = Explained.of(rows, self.reference.side)
        counts, sums, sizes = (each.sum(axis=0).tolist() for each in (made.side.counts.matrix, made.sums, made.sizes))
        return Line(digest=digest, counts=tuple(counts), sums=tuple(sums), sizes=tuple(sizes))

    def _sample(self, predictions: Predictions, start: datetime, end: datetime) -> pa.Table:
        """Of what the champion predicted, evenly spread, read part by part."""
        step, read, taken = max(1, predictions.count(start, end) // A_DAY), 0, []
        for rows in predictions.parts(start, end):
            mine = rows.filter(pc.equal(rows[VERSION], self.frozen.version.version))
            taken.append(mine.take(pa.array(np.arange(-read % step, len(mine), step))))
            read += len(mine)
        return thinned(predictions.together(taken), A_DAY)


def explained(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    """Contributions of n rows by feature, and their MOMENT."""
    names = model.vocabulary.features
    if not len(rows):
        return pa.table({name: pa.array([], pa.float64()) for name in names}).append_column(MOMENT, rows[MOMENT])
    values = model.contributions(model.vocabulary.encode(columns_of(rows, names)))[..., :-1].astype(np.float64)
    if kind == "multiclass":
        values = np.abs(values).mean(axis=1)
    return pa.table(dict(zip(names, values.T, strict=True))).append_column(MOMENT, rows[MOMENT])


def _place(frozen: Frozen) -> str:
    return f"sketches/{frozen.version.problem}/{frozen.key[:24]}/contributions"


def _kept(tables: Tables, key: str) -> Line | None:
    try:
        return Line.model_validate_json(tables.store.get(key))
    except NotFound:
        return None


def _reference(tables: Tables, kind: Kind, model: Model, frozen: Frozen) -> Explained:
    """Made once for each champion, of its snapshot's latest days: contributions rest on features alone, which are of
    no other kind in rows that a model was fitted to."""
    key = f"{_place(frozen)}/reference.json"
    try:
        return Explained.load(tables.store.get(key))
    except NotFound:
        frame = load_frame(tables.store, frozen.snapshot)
        made = Explained.of(explained(kind, model, _by_day(frame.append_column(MOMENT, frame["decision_time"]))))
        tables.store.put(key, made.dump())
        return made


def _by_day(rows: pa.Table) -> pa.Table:
    """Of each of the latest days A_DAY rows at most, evenly spread."""
    of = _days(rows)
    places = [np.flatnonzero(of == day) for day in np.unique(of)[-DAYS:]]
    return pa.concat_tables(thinned(rows.take(pa.array(mine)), A_DAY) for mine in places)


def _days(rows: pa.Table) -> Array:
    return np.asarray(rows[MOMENT].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]"))
