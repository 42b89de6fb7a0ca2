"""Batch scoring: the columns of the predictions table, and the progress of a batch.

A batch is one source scored by one model. Each part (span) of it is one commit that replaces the span's rows. Repeated
runs therefore leave no duplicates, and the commits show what a killed run did not reach.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.hashing import sha256_json
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.prediction import Scores
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.schema import RESERVED_PREFIX
from truecourse.references import ModelVersion, TableVersion, Window
from truecourse.storage.delta_tables import Tables

CHUNK_ROWS = 200_000
"""Approximate number of rows in memory at once."""
SCORE = f"{RESERVED_PREFIX}score"
"""For multiclass models one column per class, `_tc_score_<class>`: see score_columns()."""
PREDICTION = f"{RESERVED_PREFIX}prediction"
LOWER, UPPER = f"{RESERVED_PREFIX}lower", f"{RESERVED_PREFIX}upper"
"""The bounds of a prediction, where the model has intervals."""
MODEL_VERSION = f"{RESERVED_PREFIX}model_version"
MODEL_SHA256 = f"{RESERVED_PREFIX}model_sha256"
SCORED_AT = f"{RESERVED_PREFIX}scored_at"
CONTRIBUTIONS = f"{RESERVED_PREFIX}contributions"
BATCH = f"{RESERVED_PREFIX}batch"
ROW = f"{RESERVED_PREFIX}row"
"""A row's position in its source."""
SCORED = "_scored"
"""The archive's folder for the bytes of scored files, in place of a table's name."""
_OURS = (SCORE, PREDICTION, LOWER, UPPER, MODEL_VERSION, MODEL_SHA256, SCORED_AT, CONTRIBUTIONS, BATCH, ROW)
"""Our columns of the predictions table, in addition to the user's."""
_EPOCH = datetime(1970, 1, 1)
_WIDEST, _NARROWEST = timedelta(days=512), timedelta(minutes=15)


def predictions_table(problem: str) -> str:
    return f"predictions/{problem}"


def find_scored_rows(tables: Tables, problem: str, id: str) -> list[dict[str, Any]]:
    """Find the predictions of rows with this id, the most recently scored first.

    Each record has our columns without prefix, `scores` by class (multiclass), the user's columns in `values`, and the
    key of its `file`."""
    reference = tables.version(predictions_table(problem))
    if reference is None:
        return []
    found = tables.find_rows(reference, pc.field("id").cast(pa.string()) == id)
    return [_record(row) for row in sorted(found, key=lambda row: row[SCORED_AT], reverse=True)]


def _record(row: dict[str, Any]) -> dict[str, Any]:
    scores = {name.removeprefix(f"{SCORE}_"): row[name] for name in row if name.startswith(f"{SCORE}_")}
    ours = {name.removeprefix(RESERVED_PREFIX): row[name] for name in _OURS if name in row}
    known = {name: row.get(name) for name in ("id", "decision_time", "file")}
    values = {name: row[name] for name in row if not name.startswith(RESERVED_PREFIX) and name not in known}
    return known | ours | ({"scores": scores} if scores else {}) | {"values": values}


def rejected_table(problem: str) -> str:
    """Return the table of rows of files that violate the contract."""
    return f"rejected/{problem}"


@dataclass(frozen=True)
class Span:
    """Part of a batch, [start, end): decision times (naive UTC), or row positions in the source."""

    start: datetime | int
    end: datetime | int

    def covers(self, other: "Span") -> bool:
        return bool(self.start <= other.start and other.end <= self.end)  # type: ignore[operator]

    def holds(self, place: datetime | int) -> bool:
        return bool(self.start <= place < self.end)  # type: ignore[operator]

    def overlaps(self, other: "Span") -> bool:
        return bool(self.start < other.end and other.start < self.end)  # type: ignore[operator]

    def predicate(self, batch: str) -> str:
        """Return the Delta predicate of the span's rows."""
        if isinstance(self.start, datetime) and isinstance(self.end, datetime):
            start, end = f"'{self.start.isoformat()}Z'", f"'{self.end.isoformat()}Z'"
            return f"{BATCH} = '{batch}' AND decision_time >= {start} AND decision_time < {end}"
        return f"{BATCH} = '{batch}' AND {ROW} >= {self.start} AND {ROW} < {self.end}"

    def dump(self) -> list[str] | list[int]:
        if isinstance(self.start, datetime) and isinstance(self.end, datetime):
            return [self.start.isoformat(), self.end.isoformat()]
        return [int(self.start), int(self.end)]  # type: ignore[arg-type]

    @classmethod
    def load(cls, bounds: list[Any]) -> "Span":
        start, end = (datetime.fromisoformat(b) if isinstance(b, str) else b for b in bounds)
        return cls(start, end)


@dataclass(frozen=True)
class Batch:
    """One source scored by one model.

    `id`: identifies the two. `inputs`: digest of everything the rows come from. `tables`: for decisions of the tables.
    `source`: for files, the SHA-256 of each."""

    id: str
    inputs: str
    version: ModelVersion
    explain: bool
    tables: tuple[TableVersion, ...] = ()
    source: tuple[str, ...] = ()

    def commit(self, span: Span, rows: int) -> dict[str, Any]:
        about = {"flow": "score", "batch": self.id, "inputs": self.inputs, "explain": self.explain}
        about |= {"tables": [one.model_dump() for one in self.tables], "source": list(self.source)}
        return about | {"model": self.version.model_dump(), "span": span.dump(), "rows": rows}


def decisions_batch(version: ModelVersion) -> str:
    """Return the id of the batch of all decisions in the tables, scored by a version."""
    return sha256_json({"source": "decisions", "model": version.model_sha256, "version": version.version})


class BatchProgress:
    """The progress of a batch, from the commits of the predictions table."""

    def __init__(self, tables: Tables, problem: str, batch: Batch) -> None:
        name = predictions_table(problem)
        commits = [commit for _, commit in tables.commits(name)]
        self._commits = [commit for commit in reversed(commits) if commit.get("batch") == batch.id]
        self._batch = batch

    def has(self, span: Span) -> bool:
        """Return whether the span is up to date: the last commit that touched it covers it and has the same inputs."""
        for commit in self._commits:
            written = Span.load(commit["span"])
            if written.overlaps(span):
                same = commit["inputs"] == self._batch.inputs and commit["explain"] >= self._batch.explain
                return bool(same and written.covers(span))
        return False


def time_spans(first: datetime, last: datetime, rows: int, window: Window) -> Iterator[Span]:
    """Divide the decisions from `first` to `last`, within the window, at fixed edges into spans of about CHUNK_ROWS."""
    width, longest = _WIDEST, (last - first) * min(1.0, CHUNK_ROWS / max(rows, 1))
    while rows > CHUNK_ROWS and width > max(longest, _NARROWEST):
        width /= 2
    start = _EPOCH + (first - _EPOCH) // width * width
    while start <= last:
        lower, upper = max(start, window.start or start), min(start + width, window.end or datetime.max)
        if lower < upper:
            yield Span(lower, upper)
        start += width


def row_spans(rows: int) -> Iterator[Span]:
    for start in range(0, rows, CHUNK_ROWS):
        yield Span(start, min(start + CHUNK_ROWS, rows))


def prediction_rows(
    problem: Problem, vocabulary: Vocabulary, frame: pa.Table, scores: Scores, batch: Batch, at: datetime
) -> pa.Table:
    """Build the rows of the predictions table: ids, times, fields, features, scores, predictions and their origin.

    `frame`: may have the column ROW, each row's position in its source. `at`: the time of scoring, UTC.
    """
    count = len(frame)
    names = ["id", *(["decision_time"] if problem.has_time else []), *problem.request_fields, *problem.features]
    result = frame.select(list(dict.fromkeys(names)))
    explained = [None] * count if scores.attributions is None else _contributions(vocabulary, *scores.attributions)
    added: dict[str, pa.Array] = {
        **_scores(problem.kind, vocabulary, scores.output),
        PREDICTION: pa.array(scores.predicted, pa.float64() if problem.kind == "regression" else pa.string()),
        **({} if scores.bounds is None else dict(zip((LOWER, UPPER), map(pa.array, scores.bounds), strict=True))),
        MODEL_VERSION: pa.array(np.full(count, batch.version.version), pa.int64()),
        MODEL_SHA256: _repeated(batch.version.model_sha256, count),
        SCORED_AT: pa.array([at] * count, UTC_TIME),
        CONTRIBUTIONS: pa.array(explained, pa.string()),
        BATCH: _repeated(batch.id, count),
        ROW: frame[ROW] if ROW in frame.column_names else pa.nulls(count, pa.int64()),
    }
    for name, values in added.items():
        result = result.append_column(name, values)
    return result


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)


def score_columns(kind: Kind, classes: Sequence[str]) -> list[str]:
    """Return the columns of a model's output: one, or for multiclass models one per class."""
    return [f"{SCORE}_{name}" for name in classes] if kind == "multiclass" else [SCORE]


def _scores(kind: Kind, vocabulary: Vocabulary, output: Array) -> dict[str, pa.Array]:
    parts = output.reshape(len(output), -1).T.astype(np.float64)
    return {name: pa.array(part) for name, part in zip(score_columns(kind, vocabulary.classes), parts, strict=True)}


def _contributions(vocabulary: Vocabulary, base: Array, margin: Array, parts: Array) -> Iterable[str]:
    order, names = np.argsort(-np.abs(parts), axis=1, kind="stable"), vocabulary.features
    for i in range(len(parts)):
        by_feature = {names[j]: parts[i, j] for j in order[i]}
        yield json.dumps({"base": base[i], "margin": margin[i], "contributions": by_feature})
