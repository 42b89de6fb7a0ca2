"""A sample of the prediction log: its requests, features and scores as columns."""

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
from truecourse.serving.prediction_log import PARTITION, VIEW_COLUMNS, feature_event_times, log_table, parse_json_column
from truecourse.serving.privacy import private_names
from truecourse.serving.request_reader import RowReader
from truecourse.serving.rows import Rows
from truecourse.storage.delta_tables import Limit, Tables

COLUMNS = [
    "prediction_id", "at", "decision_time", "model_version", "model_sha256", "request", "features", "event_times",
    "score", "scores", *VIEW_COLUMNS,
]  # fmt: skip


def newest_day_end(problem: Problem, tables: Tables) -> datetime | None:
    """Return the end of the UTC day of the newest logged prediction; None without one. Reads partition names only."""
    reference = tables.version(log_table(problem.name))
    files = tables.files(reference) if reference is not None else []
    named = [part.removeprefix(f"{PARTITION}=") for key in files for part in key.split("/") if f"{PARTITION}=" in part]
    return datetime.fromisoformat(max(named)).replace(tzinfo=UTC) + timedelta(days=1) if named else None


@dataclass(frozen=True)
class LogSample:
    """n logged predictions, sorted by id, of `total` in the window. Private values are missing in all columns.

    `problem`: by whose request fields they are read. `further_hidden`: other names that the log may hide."""

    problem: Problem
    table: pa.Table
    total: int
    further_hidden: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> list[str]:
        ids: list[str] = self.table["prediction_id"].to_pylist()
        return ids

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Private request fields and features, which the log hashes or drops."""
        return frozenset(private_names(self.problem)) | self.further_hidden

    def part(self, problem: Problem, places: Array) -> "LogSample":
        """Select the predictions at these indices, to be read by another form of the problem."""
        return LogSample(problem, self.table.take(pa.array(places)), self.total, self.hidden)

    @cached_property
    def at(self) -> Array:
        """Request times: (n,) datetime64[us] UTC."""
        return _moments(self.table["at"])

    @cached_property
    def decided(self) -> Array:
        """Decision times, (n,) datetime64[us] UTC; the request time where there is none."""
        decided = _moments(self.table["decision_time"])
        return np.where(np.isnat(decided), self.at, decided)

    @cached_property
    def request(self) -> Rows:
        """The requests as the endpoint parsed them, by the problem's contract. Rows that violate it are left out, and
        listed in `faults`. Hidden fields are missing."""
        hidden = self.hidden
        requests = [
            {name: value for name, value in row.items() if name not in hidden}
            for row in parse_json_column(self.table["request"])
        ]
        rows = RowReader(_lenient_contract(self.problem, hidden)).read(requests, datetime.now(UTC))
        if not rows.timed:
            return rows
        decided = self.decided[rows.accepted].tolist()
        return replace(rows, values=rows.values | {DECISION_TIME: decided})

    @cached_property
    def _read(self) -> dict[tuple[str, FeatureKind], Array]:
        """Cache of feature(): most features are compared first and then scored."""
        return {}

    @cached_property
    def _features(self) -> list[dict[str, Any]]:
        return parse_json_column(self.table["features"])

    def feature(self, name: str, kind: FeatureKind) -> Array:
        """Return n values in the form of columns_of(). Do not modify them."""
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
        """Whether the log holds the feature in the clear."""
        return name not in self.hidden and any(name in row for row in self._features)

    @cached_property
    def _events(self) -> list[dict[str, Any]]:
        names = [name for name in ("event_times", *VIEW_COLUMNS) if name in self.table.column_names]
        return list(map(feature_event_times, self.table.select(names).to_pylist()))

    def events(self, feature: str) -> Array:
        """Return the event times of the looked-up values: (n,) datetime64[us] UTC, NaT without a value."""
        texts = (row.get(feature) for row in self._events)
        return np.array(
            [np.datetime64("NaT", "us") if t is None else t.rstrip("Z") for t in texts], dtype="datetime64[us]"
        )

    def outputs(self, classes: Sequence[str]) -> Array:
        """Return the logged scores: (n,), or (n, k) by class for a multiclass model."""
        if self.problem.kind != "multiclass":
            return np.asarray(self.table["score"].to_numpy(), dtype=np.float64)
        scores = parse_json_column(self.table["scores"])
        return np.array([[row.get(name, np.nan) for name in classes] for row in scores], dtype=np.float64)

    def models(self) -> Iterator[tuple[tuple[int, str], Array]]:
        """Iterate over the models that answered: (version, SHA-256) and the indices of their predictions."""
        identities = list(
            zip(*(self.table[name].to_pylist() for name in ("model_version", "model_sha256")), strict=True)
        )
        for identity in sorted(set(identities)):
            yield identity, np.array([one == identity for one in identities]).nonzero()[0]


def feature_kind(column: AnyColumn) -> FeatureKind:
    """Return the kind under which feature() reads the column: text or number."""
    return "category" if isinstance(column, Text) else "float"


def sample_log(problem: Problem, tables: Tables, window: Window, rows: int) -> LogSample:
    """Sample at most `rows` predictions that were requested and decided in the window (naive UTC, with an `end`).

    Shadow predictions are left out. Rows are chosen by a checksum of their ids, so that the sample is reproducible and
    unbiased."""
    reference = tables.version(log_table(problem.name))
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    if reference is None:
        return LogSample(problem, empty, 0)
    answers, limits = _answer_filter(window), _limits(window)
    ids = tables.read(reference, ["prediction_id"], answers, limits)["prediction_id"].to_pylist()
    if len(ids) > rows:
        chosen = nsmallest(rows, ids, key=lambda one: (zlib.crc32(one.encode()), one))
        answers &= pc.field("prediction_id").isin(chosen)
    present = tables.dataset(reference).schema.names  # a log of an older version lacks VIEW_COLUMNS
    columns = [name for name in COLUMNS if name in present]
    records = tables.read(reference, columns, answers, limits).sort_by("prediction_id")
    return LogSample(problem, records, len(ids))


def _answer_filter(window: Window) -> Any:
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


def _lenient_contract(problem: Problem, hidden: frozenset[str]) -> Contract:
    """Return the problem's contract with hidden fields optional, to parse logged requests again."""
    contract = Contract.of(problem, Vocabulary(kinds={}, categories={}))
    fields = tuple(f.model_copy(update={"nulls": True}) if f.name in hidden else f for f in contract.fields)
    return contract.model_copy(update={"fields": fields})
