"""What a champion is watched by: bins frozen from the rows it was trained on, and those rows counted by day. It is kept
as JSON, some hundred kB: whoever watches need not read the training rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from truecourse.monitoring.drift.histograms import Array, Bins, Counts
from truecourse.monitoring.drift.novelty import SeenValues
from truecourse.monitoring.drift.permutation_test import first_bins
from truecourse.monitoring.drift.relations import SUMS, Relations
from truecourse.references import ModelVersion, Snapshot

TRAILING_DAYS = 28
"""Days before a window that it is compared with: four weeks, each weekday as often as any other."""
_SIDES = ("features", "every", "scores", "scored")


@dataclass(frozen=True)
class DailyHistograms:
    """Bins of columns, and rows counted by them: a line of `counts` for each of `days` (datetime64[D], rising)."""

    bins: Mapping[str, Bins]
    days: Array
    counts: Counts

    @property
    def starts(self) -> Array:
        return first_bins(self.bins)

    def rows(self) -> Array:
        """By day."""
        return self.rows_of(self.counts.matrix)

    def rows_of(self, counts: Array) -> Array:
        """How many rows the counts (..., all bins) are of."""
        return np.asarray(counts[..., : len(next(iter(self.bins.values())).labels)].sum(axis=-1))

    def missing(self) -> Array:
        """Missing values by day and column."""
        last = np.append(self.starts[1:], self.counts.matrix.shape[1]) - 1
        return np.asarray(self.counts.matrix[:, last])

    def to_document(self) -> dict[str, Any]:
        """JSON, that read() takes. It gives a float64 back as it was."""
        edges = {name: _told(one.edges) for name, one in self.bins.items()}
        return {"bins": edges, "days": self.days.astype(str).tolist(), "counts": self.counts.matrix.tolist()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        bins = {name: _bins(*one) for name, one in document["bins"].items()}
        shape = len(document["days"]), sum(len(one.labels) for one in bins.values())
        counts = np.array(document["counts"], np.int64).reshape(shape)
        return cls(bins, np.array(document["days"], "datetime64[D]"), Counts(counts))


@dataclass(frozen=True)
class ReferenceProfile:
    """`features`: of the rows the champion was fitted to or chosen on, and `every` with the held-out ones. `scores`: of
    held-out rows, or of others where there are too few (`against` says so); `scored`: of all rows. `odd`: by column,
    the greatest share of a held-out day's rows whose values no fitted row has, and one conversion or name tells of.
    `relations` of the columns, and their `sums` of the days of `every`, (days, SUMS, p). `key` names what sketches are
    made by."""

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
        """All but the version and the key, by which it is found."""
        told: dict[str, Any] = {
            "snapshot": self.snapshot.model_dump(),
            "against": self.against,
            "known": {name: _told(values) for name, values in self.seen_values.items()},
            "odd": dict(self.unseen_shares),
            "relations": self.relations.to_document(),
            "sums": self.sums.tolist(),
        }
        told |= {name: getattr(self, name).to_document() for name in _SIDES}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, version: ModelVersion, key: str) -> Self:
        told = json.loads(data)
        return cls(
            version=version,
            snapshot=Snapshot.model_validate(told["snapshot"]),
            key=key,
            against=told["against"],
            seen_values={name: _values(*one) for name, one in told["known"].items()},
            unseen_shares=told["odd"],
            relations=(relations := Relations.from_document(told["relations"])),
            sums=np.array(told["sums"], dtype=np.int64).reshape(-1, SUMS, len(relations.names)),
            **{name: DailyHistograms.from_document(told[name]) for name in _SIDES},
        )


def _told(values: Any) -> tuple[str, list[Any]]:
    """Texts or numbers, and which of the two: there may be none."""
    if isinstance(values, np.ndarray):
        return "number", values.tolist()
    return "category", values.to_pylist() if isinstance(values, pa.Array) else list(values)


def _bins(kind: Literal["number", "category"], edges: list[Any]) -> Bins:
    return Bins(kind, np.array(edges, dtype=np.float64) if kind == "number" else tuple(edges))


def _values(kind: str, values: list[Any]) -> pa.Array | Array:
    return np.array(values, dtype=np.float64) if kind == "number" else pa.array(values, pa.string())
