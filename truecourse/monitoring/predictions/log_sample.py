"""A sample of the prediction log, taken apart: what was asked, what the model saw, and what it said."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from heapq import nsmallest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.modeling.encoding import FeatureKind, Vocabulary
from truecourse.problem import Problem
from truecourse.problem.schema import AnyColumn, Text
from truecourse.references import Window
from truecourse.serving.contract import DECISION_TIME, Contract
from truecourse.serving.prediction_log import PARTITION, log_table, parse_json_column
from truecourse.serving.privacy import private_names
from truecourse.serving.request_reader import RowReader
from truecourse.serving.rows import Rows
from truecourse.storage.tables import Limit, Tables

COLUMNS = [
    "prediction_id", "at", "decision_time", "model_version", "model_sha256", "request", "features", "event_times",
    "score", "scores",
]  # fmt: skip


def newest_day_end(problem: Problem, tables: Tables) -> datetime | None:
    """The end of the UTC day of the newest logged prediction; None where nothing is logged. It reads no row."""
    reference = tables.version(log_table(problem.name))
    files = tables.files(reference) if reference is not None else []
    named = [part.removeprefix(f"{PARTITION}=") for key in files for part in key.split("/") if f"{PARTITION}=" in part]
    return datetime.fromisoformat(max(named)).replace(tzinfo=UTC) + timedelta(days=1) if named else None


@dataclass(frozen=True)
class LogSample:
    """n logged predictions, by id, of `asked` in the window. What the log hides is in none of the columns."""

    problem: Problem
    table: pa.Table
    total: int

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> list[str]:
        ids: list[str] = self.table["prediction_id"].to_pylist()
        return ids

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Request fields and features that the log hashes or drops."""
        return frozenset(private_names(self.problem))

    @cached_property
    def at(self) -> Array:
        """When each was asked: (n,) datetime64[us] UTC."""
        return _moments(self.table["at"])

    @cached_property
    def decided(self) -> Array:
        """Decision times, (n,) datetime64[us] UTC: where the problem has none, the moment of the request."""
        decided = _moments(self.table["decision_time"])
        return np.where(np.isnat(decided), self.at, decided)

    @cached_property
    def request(self) -> Rows:
        """The requests as the endpoint read them; a row that today's contract refuses is left out, and told of in its
        `faults`. A hidden field is missing."""
        hidden = self.hidden
        given = [
            {name: value for name, value in row.items() if name not in hidden}
            for row in parse_json_column(self.table["request"])
        ]
        rows = RowReader(_lenient(self.problem, hidden)).read(given, datetime.now(UTC))
        if not rows.timed:
            return rows
        decided = self.decided[rows.accepted].tolist()
        return replace(rows, values=rows.values | {DECISION_TIME: decided})

    @cached_property
    def _read(self) -> dict[tuple[str, FeatureKind], Array]:
        """The features that were asked for so far: most are compared, and then scored."""
        return {}

    @cached_property
    def _features(self) -> list[dict[str, Any]]:
        return parse_json_column(self.table["features"])

    def feature(self, name: str, kind: FeatureKind) -> Array:
        """n values as columns_of() gives them, not to be changed."""
        if (name, kind) not in self._read:
            self._read[name, kind] = self._values(name, kind)
        return self._read[name, kind]

    def _values(self, name: str, kind: FeatureKind) -> Array:
        values = [row.get(name) for row in self._features]
        if kind != "category":
            return np.array(values, dtype=np.float64)
        texts = np.empty(len(values), dtype=object)
        texts[:] = values
        return texts

    def has_feature(self, name: str) -> bool:
        """Whether the log has the feature at all, and does not hide it."""
        return name not in self.hidden and any(name in row for row in self._features)

    @cached_property
    def _events(self) -> list[dict[str, Any]]:
        return parse_json_column(self.table["event_times"])

    def events(self, feature: str) -> Array:
        """When the looked-up values came to be: (n,) datetime64[us] UTC, NaT where there was none."""
        told = (row.get(feature) for row in self._events)
        return np.array([np.datetime64("NaT") if t is None else t.rstrip("Z") for t in told], dtype="datetime64[us]")

    def outputs(self, classes: Sequence[str]) -> Array:
        """What the model said: scores (n,), or (n, k) of the classes of a multiclass model."""
        if self.problem.kind != "multiclass":
            return np.asarray(self.table["score"].to_numpy(), dtype=np.float64)
        told = parse_json_column(self.table["scores"])
        return np.array([[row.get(name, np.nan) for name in classes] for row in told], dtype=np.float64)

    def models(self) -> Iterator[tuple[tuple[int, str], Array]]:
        """Each model that answered, its version and SHA-256, and the places of its answers."""
        told = list(zip(*(self.table[name].to_pylist() for name in ("model_version", "model_sha256")), strict=True))
        for identity in sorted(set(told)):
            yield identity, np.array([one == identity for one in told]).nonzero()[0]


def feature_kind(column: AnyColumn) -> FeatureKind:
    """How feature() reads it: as text or as a number."""
    return "category" if isinstance(column, Text) else "float"


def sample_log(problem: Problem, tables: Tables, window: Window, rows: int) -> LogSample:
    """At most `rows` of the predictions that were asked for and decided in the window (naive UTC, `end` given).

    A shadow's records, which answered nobody, are left out. Which rows are taken goes by a checksum of their ids: the
    same ones each time, and no kind of row rather than another."""
    reference = tables.version(log_table(problem.name))
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    if reference is None:
        return LogSample(problem, empty, 0)
    answered, limits = _answered(window), _limits(window)
    ids = tables.read(reference, ["prediction_id"], answered, limits)["prediction_id"].to_pylist()
    if len(ids) > rows:
        chosen = nsmallest(rows, ids, key=lambda one: (zlib.crc32(one.encode()), one))
        answered &= pc.field("prediction_id").isin(chosen)
    found = tables.read(reference, COLUMNS, answered, limits).sort_by("prediction_id")
    return LogSample(problem, found, len(ids))


def _answered(window: Window) -> Any:
    decided = pc.field("decision_time")
    return (pc.field("role") != "shadow") & (decided.is_null() | (decided < pa.scalar(window.end, UTC_TIME)))


def _limits(window: Window) -> list[Limit]:
    assert window.end is not None
    limits: list[Limit] = [("at", "<", window.end.replace(tzinfo=UTC)), (PARTITION, "<=", f"{window.end:%Y-%m-%d}")]
    if window.start is None:
        return limits
    return [
        *limits,
        ("at", ">=", window.start.replace(tzinfo=UTC)),
        (PARTITION, ">=", f"{window.start:%Y-%m-%d}"),
    ]


def _moments(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]")


def _lenient(problem: Problem, hidden: frozenset[str]) -> Contract:
    """The problem's contract, by which a request that was accepted once is read again without what is hidden."""
    contract = Contract.of(problem, Vocabulary(kinds={}, categories={}))
    fields = tuple(f.model_copy(update={"nulls": True}) if f.name in hidden else f for f in contract.fields)
    return contract.model_copy(update={"fields": fields})
