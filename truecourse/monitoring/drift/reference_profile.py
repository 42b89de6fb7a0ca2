"""What a champion is watched by: bins frozen from the rows it was trained on, and those rows counted by day. It is kept
as JSON, some hundred kB: whoever watches need not read the training rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from truecourse.monitoring.drift.histograms import Array, Bins, Counts
from truecourse.monitoring.drift.novelty import Known
from truecourse.monitoring.drift.permutation_test import first_bins
from truecourse.monitoring.drift.relations import SUMS, Relations
from truecourse.references import ModelVersion, Snapshot

TRAILING = 28
"""Days before a window that it is compared with: four weeks, each weekday as often as any other."""
_SIDES = ("features", "every", "scores", "scored")


@dataclass(frozen=True)
class Side:
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

    def told(self) -> dict[str, Any]:
        """JSON, that read() takes. It gives a float64 back as it was."""
        edges = {name: _told(one.edges) for name, one in self.bins.items()}
        return {"bins": edges, "days": self.days.astype(str).tolist(), "counts": self.counts.matrix.tolist()}

    @classmethod
    def read(cls, told: dict[str, Any]) -> Self:
        bins = {name: _bins(*one) for name, one in told["bins"].items()}
        shape = len(told["days"]), sum(len(one.labels) for one in bins.values())
        counts = np.array(told["counts"], np.int64).reshape(shape)
        return cls(bins, np.array(told["days"], "datetime64[D]"), Counts(counts))


@dataclass(frozen=True)
class Frozen:
    """`features`: of the rows the champion was fitted to or chosen on, and `every` with the held-out ones. `scores`: of
    held-out rows, or of others where there are too few (`against` says so); `scored`: of all rows. `odd`: by column,
    the greatest share of a held-out day's rows whose values no fitted row has, and one conversion or name tells of.
    `relations` of the columns, and their `sums` of the days of `every`, (days, SUMS, p). `key` names what sketches are
    made by."""

    version: ModelVersion
    snapshot: Snapshot
    key: str
    features: Side
    every: Side
    scores: Side
    scored: Side
    against: str
    known: Known
    odd: Mapping[str, float]
    relations: Relations
    sums: Array

    def dump(self) -> bytes:
        """All but the version and the key, by which it is found."""
        told: dict[str, Any] = {
            "snapshot": self.snapshot.model_dump(),
            "against": self.against,
            "known": {name: _told(values) for name, values in self.known.items()},
            "odd": dict(self.odd),
            "relations": self.relations.told(),
            "sums": self.sums.tolist(),
        }
        told |= {name: getattr(self, name).told() for name in _SIDES}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, version: ModelVersion, key: str) -> Self:
        told = json.loads(data)
        return cls(
            version=version,
            snapshot=Snapshot.model_validate(told["snapshot"]),
            key=key,
            against=told["against"],
            known={name: _values(*one) for name, one in told["known"].items()},
            odd=told["odd"],
            relations=(relations := Relations.read(told["relations"])),
            sums=np.array(told["sums"], dtype=np.int64).reshape(-1, SUMS, len(relations.names)),
            **{name: Side.read(told[name]) for name in _SIDES},
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
