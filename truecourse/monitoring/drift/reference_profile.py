"""The reference profile of a champion: bins learned from its training rows, and those rows counted by day.

It is built from the training snapshot when it is first needed, and stored as JSON of some hundred kB, so that checks
need not read the training rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from truecourse.errors import NotFound
from truecourse.hashing import sha256_json
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.monitoring.drift.histograms import Array, Bins, Counts, learn_bins
from truecourse.monitoring.drift.permutation_test import first_bins
from truecourse.monitoring.drift.relations import SUMS, Relations, RowSampler
from truecourse.monitoring.drift.unseen_values import SeenValues, count_unseen, seen_values
from truecourse.monitoring.predictions.observed_predictions import monitored_features
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion, Snapshot
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import score_columns
from truecourse.settings import get_settings
from truecourse.storage.format import get_stored
from truecourse.storage.object_store import open_store
from truecourse.stored_format import HISTOGRAMS, numbered, read_numbered

TRAILING_DAYS = 28
"""Days before a window to compare it with: four weeks, so that all weekdays are equally frequent."""
_SIDES = ("features", "every", "scores", "scored")
MIN_HELD_OUT = 200
"""Held-out rows needed for the reference of the scores."""
_SCORED = 50_000
"""About how many training rows are scored, to measure the variation of daily scores."""
_METHOD = 6
"""Version of the profile format: increase it when the same rows would give another profile."""


@dataclass(frozen=True)
class DailyHistograms:
    """Histograms of columns by day: `bins`, and a row of `counts` for each of `days` (datetime64[D], sorted)."""

    bins: Mapping[str, Bins]
    days: Array
    counts: Counts

    @property
    def starts(self) -> Array:
        return first_bins(self.bins)

    def rows(self) -> Array:
        """Return the number of rows by day."""
        return self.rows_of(self.counts.matrix)

    def rows_of(self, counts: Array) -> Array:
        """Return the number of rows behind `counts` (..., all bins)."""
        return np.asarray(counts[..., : len(next(iter(self.bins.values())).labels)].sum(axis=-1))

    def missing(self) -> Array:
        """Return the number of missing values by day and column."""
        last = np.append(self.starts[1:], self.counts.matrix.shape[1]) - 1
        return np.asarray(self.counts.matrix[:, last])

    def to_document(self) -> dict[str, Any]:
        """Return a JSON document for from_document(). float64 values survive unchanged."""
        edges = {name: _to_json(one.edges) for name, one in self.bins.items()}
        return {"bins": edges, "days": self.days.astype(str).tolist(), "counts": self.counts.matrix.tolist()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        bins = {name: _bins_from_json(*one) for name, one in document["bins"].items()}
        shape = len(document["days"]), sum(len(one.labels) for one in bins.values())
        counts = np.array(document["counts"], np.int64).reshape(shape)
        return cls(bins, np.array(document["days"], "datetime64[D]"), Counts(counts))


@dataclass(frozen=True)
class ReferenceProfile:
    """What the drift check knows of a champion.

    `features`: histograms of the rows it was trained or selected on; `every`: also with the held-out rows. `scores`: of
    held-out rows, or of others if those are too few (`against` says which); `scored`: of all scored rows.
    `seen_values`: by column, the values in training. `unseen_shares`: by column, the greatest share of a held-out
    day's rows with unseen values of one kind (a category, or a unit conversion). `relations` of the columns, and their
    `sums` by day of `every`, (days, SUMS, p). `key`: identifies how daily counts are made, as part of their storage
    keys."""

    version: ModelVersion
    snapshot: Snapshot
    key: str
    features: DailyHistograms
    every: DailyHistograms
    scores: DailyHistograms
    scored: DailyHistograms
    against: str
    seen_values: SeenValues
    unseen_shares: Mapping[str, float]
    relations: Relations
    sums: Array

    def dump(self) -> bytes:
        """Serialize all but the version and the key, which identify the profile."""
        document: dict[str, Any] = {
            "snapshot": self.snapshot.model_dump(),
            "against": self.against,
            "known": {name: _to_json(values) for name, values in self.seen_values.items()},
            "odd": dict(self.unseen_shares),
            "relations": self.relations.to_document(),
            "sums": self.sums.tolist(),
        }
        document |= {name: getattr(self, name).to_document() for name in _SIDES}
        return json.dumps(numbered(document), separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, version: ModelVersion, key: str) -> Self:
        document = read_numbered(data, "the reference profile")
        return cls(
            version=version,
            snapshot=Snapshot.model_validate(document["snapshot"]),
            key=key,
            against=document["against"],
            seen_values={name: _values_from_json(*one) for name, one in document["known"].items()},
            unseen_shares=document["odd"],
            relations=(relations := Relations.from_document(document["relations"])),
            sums=np.array(document["sums"], dtype=np.int64).reshape(-1, SUMS, len(relations.names)),
            **{name: DailyHistograms.from_document(document[name]) for name in _SIDES},
        )


def _to_json(values: Any) -> tuple[str, list[Any]]:
    """Return the kind of the values and the values as a list, which may be empty."""
    if isinstance(values, np.ndarray):
        return "number", values.tolist()
    return "category", values.to_pylist() if isinstance(values, pa.Array) else list(values)


def _bins_from_json(kind: Literal["number", "category"], edges: list[Any]) -> Bins:
    return Bins(kind, np.array(edges, dtype=np.float64) if kind == "number" else tuple(edges))


def _values_from_json(kind: str, values: list[Any]) -> pa.Array | Array:
    return np.array(values, dtype=np.float64) if kind == "number" else pa.array(values, pa.string())


def load_profile(problem: Problem, version: ModelVersion) -> ReferenceProfile:
    """Load the champion's reference profile, once per process; build and store it if there is none yet. Only for
    problems with time."""
    cache_key = (problem.name, problem.kind, tuple(monitored_features(problem, version)), problem.monitoring.bins)
    return load_stored(*cache_key, version, get_settings().storage_root)


@lru_cache(maxsize=4)
def load_stored(
    name: str, kind: Kind, columns: tuple[str, ...], bins: int, version: ModelVersion, storage: str
) -> ReferenceProfile:
    """Load or build. `storage` is part of the cache key: two storages may have champions with the same number."""
    store, key = open_store(), sha256_json([_METHOD, version.run_id, bins, columns])
    place = f"{HISTOGRAMS}/{name}/{key[:24]}/profile.json"
    try:
        return ReferenceProfile.load(get_stored(store, place), version, key)
    except NotFound:
        profile = _build(kind, columns, bins, version, key)
        store.put(place, profile.dump())
        return profile


def _build(kind: Kind, columns: tuple[str, ...], bins: int, version: ModelVersion, key: str) -> ReferenceProfile:
    snapshot = trained_run(version.problem, version.run_id).snapshot
    frame = load_frame(open_store(), snapshot)
    fitted, held_out = rows_of(frame, "train", "validate"), rows_of(frame, "test")
    bins_by_column = learn_bins(fitted, list(columns), bins)
    training_values = seen_values(fitted, list(columns))
    relations = Relations.learn(fitted, bins_by_column, "decision_time")
    model = registry.open_model(version, kind)
    sampled = fitted.take(pa.array(np.arange(0, len(fitted), len(fitted) // _SCORED + 1)))
    scored_rows = pa.concat_tables([_scores_with_time(kind, model, part) for part in (sampled, held_out)])
    reference, against = _scores_with_time(kind, model, held_out), "held-out rows before the window"
    if len(held_out) < MIN_HELD_OUT:
        reference, against = scored_rows, "training rows (optimistic): there are too few held-out rows"
    score_bins = learn_bins(reference, [n for n in reference.column_names if n != "decision_time"], bins)
    return ReferenceProfile(
        version=version,
        snapshot=snapshot,
        key=key,
        features=count_by_day(bins_by_column, fitted),
        every=count_by_day(bins_by_column, frame),
        scores=count_by_day(score_bins, reference),
        scored=count_by_day(score_bins, scored_rows),
        against=against,
        seen_values=training_values,
        unseen_shares=unseen_shares(training_values, held_out),
        relations=relations,
        sums=daily_sums(relations, frame),
    )


def count_by_day(bins: Mapping[str, Bins], rows: pa.Table, moment: str = "decision_time") -> DailyHistograms:
    """Count rows by UTC day and bin."""
    dates = rows[moment].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    days, blocks = np.unique(dates, return_inverse=True)
    return DailyHistograms(bins, days, Counts.of(bins, rows, blocks.astype(np.int64)))


def score_rows(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    """Score n rows; returns one column per score."""
    output = model.predict(matrix_of(model.vocabulary, rows))
    columns = output.reshape(len(rows), -1).T.astype(np.float64)
    return pa.table(dict(zip(score_columns(kind, model.vocabulary.classes), columns, strict=True)))


def _scores_with_time(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    return score_rows(kind, model, rows).append_column("decision_time", rows["decision_time"])


def daily_sums(relations: Relations, rows: pa.Table) -> Array:
    """Return the sums of the relations by UTC day, (days, SUMS, p)."""
    rows = rows.select(sorted({*relations.names, *relations.categories, "decision_time"})).combine_chunks()
    days = rows["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    order = np.argsort(days, kind="stable")
    places_by_day = np.split(order, np.flatnonzero(np.diff(days[order])) + 1) if len(order) else []
    samples = (RowSampler(len(places)).take(rows.take(pa.array(places))) for places in places_by_day)
    sums = [relations.sums(day, "decision_time") for day in samples]
    return np.array(sums, dtype=np.int64).reshape(-1, SUMS, len(relations.names))


def unseen_shares(seen: SeenValues, held_out: pa.Table) -> dict[str, float]:
    days = held_out["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    greatest: dict[str, float] = {}
    for day in np.unique(days):
        rows = held_out.filter(pa.array(days == day))
        for name, unseen in count_unseen(seen, rows).items():
            greatest[name] = max(greatest.get(name, 0.0), unseen.alike / len(rows))
    return greatest
