"""What a champion is watched by: bins frozen from the rows it was trained on, and those rows counted by day. It is kept
as JSON, some hundred kB: whoever watches need not read the training rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from truecourse.monitoring.bins import Array, Bins, Counts
from truecourse.monitoring.drift import first_bins, psi
from truecourse.monitoring.strange import Known
from truecourse.references import ModelVersion, Snapshot

TRAILING = 28
"""Days before a window that it is compared with: four weeks, each weekday as often as any other."""
_LEAST_PAST = 7
_SIDES = {"features": "by", "every": "by", "scores": "of_scores", "scored": "of_scores"}
"""Each side, and whose bins it is counted by."""


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
        return np.asarray(self.counts.matrix[:, : len(next(iter(self.bins.values())).labels)].sum(axis=1))

    def missing(self) -> Array:
        """Missing values by day and column."""
        last = np.append(self.starts[1:], self.counts.matrix.shape[1]) - 1
        return np.asarray(self.counts.matrix[:, last])

    def swing(self, window: int) -> Array | None:
        """For each column the greatest PSI of any `window` days against the TRAILING days before them: what the season
        and the weather are known to do. None with too few days to tell."""
        ends = np.arange(window + TRAILING, len(self.days) + 1)
        if len(ends) < _LEAST_PAST:
            return None
        sums = np.concatenate([np.zeros_like(self.counts.matrix[:1]), np.cumsum(self.counts.matrix, axis=0)])
        recent = sums[ends] - sums[ends - window]
        before = sums[ends - window] - sums[ends - window - TRAILING]
        return np.asarray(psi(before, recent, self.starts).max(axis=0))


@dataclass(frozen=True)
class Frozen:
    """`features`: of the rows the champion was fitted to or chosen on, and `every` with the held-out ones. `scores`: of
    held-out rows, or of others where there are too few (`against` says so); `scored`: of all rows. `odd`: by column,
    the greatest share of a held-out day's rows whose values no fitted row has, and one conversion or name tells of.
    `key` names what sketches are made by."""

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

    def dump(self) -> bytes:
        """All but the version and the key, by which it is found."""
        told: dict[str, Any] = {
            "snapshot": self.snapshot.model_dump(),
            "against": self.against,
            "by": {name: _told(one.edges) for name, one in self.features.bins.items()},
            "of_scores": {name: _told(one.edges) for name, one in self.scores.bins.items()},
            "known": {name: _told(values) for name, values in self.known.items()},
            "odd": dict(self.odd),
        }
        for name in _SIDES:
            side: Side = getattr(self, name)
            told[name] = {"days": side.days.astype(str).tolist(), "counts": side.counts.matrix.tolist()}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, version: ModelVersion, key: str) -> Self:
        told = json.loads(data)
        bins = {family: {name: _bins(*one) for name, one in told[family].items()} for family in ("by", "of_scores")}
        sides = {name: _side(bins[family], **told[name]) for name, family in _SIDES.items()}
        return cls(
            version=version,
            snapshot=Snapshot.model_validate(told["snapshot"]),
            key=key,
            against=told["against"],
            known={name: _values(*one) for name, one in told["known"].items()},
            odd=told["odd"],
            **sides,
        )


def _told(values: Any) -> tuple[str, list[Any]]:
    """Texts or numbers, and which of the two: there may be none. JSON gives a float64 back as it was."""
    if isinstance(values, np.ndarray):
        return "number", values.tolist()
    return "category", values.to_pylist() if isinstance(values, pa.Array) else list(values)


def _bins(kind: Literal["number", "category"], edges: list[Any]) -> Bins:
    return Bins(kind, np.array(edges, dtype=np.float64) if kind == "number" else tuple(edges))


def _values(kind: str, values: list[Any]) -> pa.Array | Array:
    return np.array(values, dtype=np.float64) if kind == "number" else pa.array(values, pa.string())


def _side(bins: Mapping[str, Bins], days: list[str], counts: list[list[int]]) -> Side:
    width = sum(len(one.labels) for one in bins.values())
    return Side(bins, np.array(days, "datetime64[D]"), Counts(np.array(counts, np.int64).reshape(len(days), width)))
