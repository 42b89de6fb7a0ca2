"""The reference profile of a champion: bins learned from its training rows, and those rows counted by day.

It is stored as JSON of some hundred kB, so that checks need not read the training rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from truecourse.monitoring.drift.histograms import Array, Bins, Counts
from truecourse.monitoring.drift.permutation_test import first_bins
from truecourse.monitoring.drift.relations import SUMS, Relations
from truecourse.monitoring.drift.unseen_values import SeenValues
from truecourse.references import ModelVersion, Snapshot

TRAILING_DAYS = 28
"""Days before a window to compare it with: four weeks, so that all weekdays are equally frequent."""
_SIDES = ("features", "every", "scores", "scored")


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
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, version: ModelVersion, key: str) -> Self:
        document = json.loads(data)
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
