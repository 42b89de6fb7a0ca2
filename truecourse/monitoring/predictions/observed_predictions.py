"""Observed predictions from batches and the log: the features that the models read, and their scores."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.errors import FeatureError
from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.schema import RESERVED_PREFIX, AnyColumn, Text
from truecourse.references import ModelVersion, TableVersion, naive_utc
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import BATCH, MODEL_VERSION, ROW, SCORE, SCORED_AT, predictions_table
from truecourse.serving.prediction_log import PARTITION, log_table, parse_json_column
from truecourse.serving.privacy import private_names
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Limit, Tables

MOMENT, VERSION, ID = f"{RESERVED_PREFIX}moment", MODEL_VERSION, "id"
"""Columns besides features and scores: the decision time (of logged rows the request time; UTC), model version, id."""
LOGGED = "log"
"""The batch of the endpoint's predictions; see read_new_rows()."""
PART_ROWS = 50_000
"""About how many rows are in memory at once."""
_ROUNDED = timedelta(milliseconds=1)
_ANSWER = ["at", "model_version", ID, "features", "score", "scores"]


def monitored_features(problem: Problem, version: ModelVersion | None = None) -> dict[str, AnyColumn]:
    """Return the features that the drift check covers: all but private ones, which the log hides, and, if a version is
    given, those of the problem on which it was trained. Raises FeatureError if there are none."""
    private = private_names(problem)
    features = {name: column for name, column in problem.features.items() if name not in private}
    if not features:
        raise FeatureError("every feature is private", where="drift", hint="the drift check needs one that is not")
    if version is None:
        return features
    trained = _trained_features(version, problem.kind, get_settings().storage_root)
    if trained.isdisjoint(features):
        hint = f"truecourse run lifecycle --problem {problem.name}"
        raise FeatureError(f"version {version.version} has no feature of the problem", where="drift", hint=hint)
    return {name: column for name, column in features.items() if name in trained}


def unmonitored_features(problem: Problem, version: ModelVersion) -> list[str]:
    """Return the features that the version or the problem has, but not both: the problem was edited since training."""
    trained = _trained_features(version, problem.kind, get_settings().storage_root)
    return sorted(trained ^ set(problem.features))


@lru_cache(maxsize=16)
def _trained_features(version: ModelVersion, kind: Kind, storage: str) -> frozenset[str]:
    """`storage` is part of the cache key: two storages may have versions with the same number."""
    return frozenset(registry.open_model(version, kind).vocabulary.features)


class Predictions:
    """A problem's predictions. `scores`: names of the score columns, one per class for a multiclass problem."""

    def __init__(self, problem: Problem, tables: Tables, scores: Sequence[str]) -> None:
        self._problem, self._tables, self._scores = problem, tables, tuple(scores)
        self._features = monitored_features(problem)
        self._batches = tables.version(predictions_table(problem.name))
        self._log = tables.version(log_table(problem.name))
        self._schema = pa.schema(
            [(MOMENT, UTC_TIME), (VERSION, pa.int64()), (ID, pa.string())]
            + [(name, arrow_type(column)) for name, column in self._features.items()]
            + [(name, pa.float64()) for name in scores]
        )
        dated = ((self._batches, "decision_time"), (self._log, "at"))
        self._files = [file for table, moment in dated if table for file in _files(tables, table, moment)]

    @property
    def newest(self) -> datetime | None:
        """The latest time of a prediction (naive UTC), read from the tables' commits; None without predictions."""
        return max((last for _, _, last in self._files if last is not None), default=None)

    def newest_before(self, moment: datetime) -> datetime | None:
        """Return the latest time up to `moment` (naive UTC) that a prediction may have, from the files' time
        ranges: `moment` itself for a file that reaches beyond it."""
        known = ((first, last) for _, first, last in self._files if last is not None)
        return max((min(last, moment) for first, last in known if first is None or first <= moment), default=None)

    @property
    def arrivals(self) -> list[datetime]:
        """Times at which predictions were made (naive UTC, sorted), at least one per day: the scoring time of batches,
        the request time of logged ones."""
        dated = ((self._batches, SCORED_AT), (self._log, "at"))
        files = [file for table, moment in dated if table for file in _files(self._tables, table, moment)]
        return sorted({moment for _, *ends in files for moment in ends if moment is not None})

    @property
    def oldest(self) -> datetime | None:
        return min((first for _, first, _ in self._files if first is not None), default=None)

    def digest(self, start: datetime, end: datetime) -> str | None:
        """Return a digest of the files with rows from `start` to `end` (naive UTC); it changes when these rows do. None
        without such files."""
        names = [
            n
            for n, first, last in self._files
            if first is None or last is None or (first < end and last + _ROUNDED > start)
        ]
        return sha256_json(sorted(names)) if names else None

    def read(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        """Read predictions from `start` up to, but without, `end` (naive UTC), in parts of about PART_ROWS rows.

        Of a row that was scored again the last prediction counts. Only one part and the keys are in memory. Raises
        FeatureError if the predictions have features of other types."""
        yield from self._read_batches(start, end)
        yield from self._read_log(start, end)

    def concatenate(self, parts: Iterable[pa.Table]) -> pa.Table:
        """Concatenate parts of read(). Without parts, the table is empty and has all columns."""
        return pa.concat_tables([self._schema.empty_table(), *parts])

    def count(self, start: datetime, end: datetime) -> int:
        """Count rows, including those that were scored again."""
        batches, logged = _between("decision_time", start, end), _requested_between(start, end)
        both = ((self._batches, batches), (self._log, logged))
        return sum(self._tables.count(table, where) for table, where in both if table is not None)

    def read_new_rows(self, version: ModelVersion, snapshot_ids: pa.Array, since: datetime, at: datetime) -> pa.Table:
        """Read, for a problem without time, what a version predicted after `since` and by `at` (UTC) for rows that are
        not in its snapshot: rows of files, newer rows of the table, and requests to the endpoint.

        Adds BATCH (LOGGED for requests); MOMENT is the scoring time. Rows of different batches never replace each
        other.

        snapshot_ids: ids of the snapshot's rows, which are left out."""
        schema = self._schema.append(pa.field(BATCH, pa.string()))
        parts = [schema.empty_table()]
        if self._batches is not None:
            where = (pc.field(VERSION) == version.version) & (pc.field(SCORED_AT) <= pa.scalar(at, UTC_TIME))
            where &= pc.field(SCORED_AT) > pa.scalar(since, UTC_TIME)
            where &= pc.field(ID).is_null() | ~pc.field(ID).isin(snapshot_ids)
            present = self._tables.dataset(self._batches).schema.names
            names = [name for name in self._schema.names if name in present]
            rows = self._tables.read(self._batches, [*dict.fromkeys([*names, BATCH, SCORED_AT])], where)
            rows = rows.append_column(MOMENT, rows[SCORED_AT])
            parts.append(self._cast(rows).append_column(BATCH, rows[BATCH].cast(pa.string())))
        if self._log is not None:
            answers = (pc.field("role") != "shadow") & (pc.field("model_version") == version.version)
            answers &= pc.field("at") <= pa.scalar(at, UTC_TIME)
            limits: list[Limit] = [("at", ">", since), (PARTITION, ">=", f"{since:%Y-%m-%d}")]
            for rows in self._tables.parts(self._log, _ANSWER, PART_ROWS, answers, limits):
                columns = self._to_columns(rows)
                parts.append(columns.append_column(BATCH, pa.repeat(pa.scalar(LOGGED), len(columns))))
        return pa.concat_tables(parts)

    def _read_batches(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        if self._batches is None:
            return
        present = self._tables.dataset(self._batches).schema.names
        within = _between("decision_time", start, end)
        is_latest, read = self._is_latest(present, within), 0
        names = [n for n in ("decision_time", "id", BATCH, ROW, *self._schema.names) if n in present]
        for part in self._tables.parts(self._batches, list(dict.fromkeys(names)), PART_ROWS, where=within):
            rows = _with_ids(part.filter(pa.array(is_latest[read : read + len(part)])))
            read += len(part)
            yield self._cast(rows.append_column(MOMENT, rows["decision_time"]))

    def _is_latest(self, present: Sequence[str], within: Sequence[Limit]) -> Array:
        """Return for each batch row whether it was not scored again later. Reads the key columns only."""
        assert self._batches is not None
        names = [n for n in ("decision_time", "id", BATCH, ROW, SCORED_AT) if n in present]
        rows = pl.DataFrame(_with_ids(self._tables.read(self._batches, names, where=within)))
        keys = ["decision_time", "id"]
        newest = rows.with_row_index("place").sort(SCORED_AT, maintain_order=True).unique(keys, keep="last")
        is_latest = np.zeros(len(rows), dtype=bool)
        is_latest[newest["place"].to_numpy()] = True
        return is_latest

    def _read_log(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        if self._log is None:
            return
        answers, within = pc.field("role") != "shadow", _requested_between(start, end)
        for rows in self._tables.parts(self._log, _ANSWER, PART_ROWS, answers, within):
            yield self._to_columns(rows)

    def _to_columns(self, rows: pa.Table) -> pa.Table:
        """Turn log records into columns."""
        features = parse_json_column(rows["features"])
        columns: dict[str, Any] = {MOMENT: rows["at"], VERSION: rows["model_version"], ID: rows[ID]}
        for name, column in self._features.items():
            values = [row.get(name) for row in features]
            text = isinstance(column, Text)
            columns[name] = pa.array(values if text else np.array(values, np.float64), from_pandas=True)
        if self._problem.kind == "multiclass":
            by_class = parse_json_column(rows["scores"])
            columns |= {n: pa.array([row.get(n.removeprefix(f"{SCORE}_")) for row in by_class]) for n in self._scores}
        else:
            columns[SCORE] = rows["score"]
        return self._cast(pa.table(columns))

    def _cast(self, rows: pa.Table) -> pa.Table:
        try:
            columns = [
                rows[field.name].cast(field.type)
                if field.name in rows.column_names
                else pa.chunked_array([pa.nulls(len(rows), field.type)])
                for field in self._schema
            ]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            hint = "the predictions were made with other feature types; score again"
            raise FeatureError(
                f"the features do not match the problem: {error}", where="predictions", hint=hint
            ) from None
        return pa.Table.from_arrays(columns, schema=self._schema)


def _with_ids(rows: pa.Table) -> pa.Table:
    """Fill a missing id with the row's position in its batch."""
    if ROW not in rows.column_names:
        return rows
    place = pc.binary_join_element_wise(rows[BATCH].cast(pa.string()), rows[ROW].cast(pa.string()), ":")
    return rows.set_column(rows.column_names.index("id"), "id", pc.coalesce(rows["id"], place))


def _between(column: str, start: datetime, end: datetime) -> list[Limit]:
    first, last = (moment.replace(tzinfo=UTC) for moment in (start, end))
    return [(column, ">=", first), (column, "<", last)]


def _requested_between(start: datetime, end: datetime) -> list[Limit]:
    return [*_between("at", start, end), (PARTITION, ">=", f"{start:%Y-%m-%d}"), (PARTITION, "<=", f"{end:%Y-%m-%d}")]


@lru_cache(maxsize=16)  # a check asks several times, and a version never changes
def _files(
    tables: Tables, reference: TableVersion, moment: str
) -> tuple[tuple[str, datetime | None, datetime | None], ...]:
    """Return each file with the first and last time (naive UTC) of its rows, where its commit records them. Commits
    round down to milliseconds."""
    bounds = tables.bounds(reference, moment)
    return tuple((name, naive_utc(first), naive_utc(last)) for name, first, last in bounds)
