"""Predictions as they were made, from batches and from the log: the features that the models saw, and their scores."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
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
from truecourse.problem.schema import RESERVED_PREFIX, AnyColumn, Text
from truecourse.references import ModelVersion, TableVersion, naive_utc
from truecourse.serving.batch_scoring import BATCH, MODEL_VERSION, ROW, SCORE, SCORED_AT, predictions_table
from truecourse.serving.prediction_log import PARTITION, log_table, parse_json_column
from truecourse.serving.privacy import private_names
from truecourse.storage.tables import Limit, Tables

MOMENT, VERSION, ID = f"{RESERVED_PREFIX}moment", MODEL_VERSION, "id"
"""The columns beside features and scores: when a row was decided (logged: asked for), UTC, who answered, its id."""
LOGGED = "log"
"""Stands for a batch where the endpoint answered; see observed()."""
PART_ROWS = 50_000
"""About so many rows are held at once."""
_ROUNDED = timedelta(milliseconds=1)
_ANSWER = ["at", "model_version", ID, "features", "score", "scores"]


def monitored_features(problem: Problem) -> dict[str, AnyColumn]:
    """The features that drift is looked for in: not private ones, which the log hides. Raises FeatureError if there is
    no other."""
    private = private_names(problem)
    found = {name: column for name, column in problem.features.items() if name not in private}
    if not found:
        raise FeatureError("every feature is private", where="drift", hint="there is none that may be looked at")
    return found


class Predictions:
    """A problem's predictions. `scores`: the names of the columns of scores, one for each class of a multiclass."""

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
    def exist(self) -> bool:
        return self._batches is not None or self._log is not None

    @property
    def newest(self) -> datetime | None:
        """The last moment (naive UTC) that any prediction is of; read from the tables' commits."""
        return max((last for _, _, last in self._files if last is not None), default=None)

    def newest_before(self, moment: datetime) -> datetime | None:
        """The last moment up to `moment` (naive UTC) that a prediction may be of, as far as files tell: of one
        that reaches beyond it, the moment itself."""
        known = ((first, last) for _, first, last in self._files if last is not None)
        return max((min(last, moment) for first, last in known if first is None or first <= moment), default=None)

    @property
    def arrivals(self) -> list[datetime]:
        """When predictions were made (naive UTC, rising), a moment of each day at least: those of batches when they
        were scored, the log's by their own time."""
        dated = ((self._batches, SCORED_AT), (self._log, "at"))
        files = [file for table, moment in dated if table for file in _files(self._tables, table, moment)]
        return sorted({moment for _, *ends in files for moment in ends if moment is not None})

    @property
    def oldest(self) -> datetime | None:
        return min((first for _, first, _ in self._files if first is not None), default=None)

    def digest(self, start: datetime, end: datetime) -> str | None:
        """Of the files that hold what is from `start` to `end` (naive UTC): while it stays, so do these rows. None
        where there are no such files."""
        names = [
            n
            for n, first, last in self._files
            if first is None or last is None or (first < end and last + _ROUNDED > start)
        ]
        return sha256_json(sorted(names)) if names else None

    def read(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        """From `start` up to but without `end` (naive UTC), the last one of each row that was scored again, in parts of
        about PART_ROWS rows: however many there are, what is held of them is those and their keys. Raises FeatureError
        where they were made with features of other types."""
        yield from self._scored(start, end)
        yield from self._asked(start, end)

    def concatenate(self, parts: Iterable[pa.Table]) -> pa.Table:
        """Parts of parts() as one table, which has its columns also where there is no part: a day without decisions has
        none."""
        return pa.concat_tables([self._schema.empty_table(), *parts])

    def count(self, start: datetime, end: datetime) -> int:
        """How many the tables hold, rows that were scored again with them."""
        batches, asked = _between("decision_time", start, end), _asked_for(start, end)
        both = ((self._batches, batches), (self._log, asked))
        return sum(self._tables.count(table, where) for table, where in both if table is not None)

    def read_new_rows(self, version: ModelVersion, learned: pa.Array, since: datetime, at: datetime) -> pa.Table:
        """Of a problem without time, what a version predicted after `since` and by `at` (UTC) of rows that its snapshot
        does not have: of files, of the table's newer rows, and the endpoint's answers.

        With BATCH (LOGGED for an answer), and MOMENT, when it was scored. A row is its place in its batch: no batch
        takes the place of another's rows.

        learned: the ids of the snapshot's rows, which the model was fitted to or judged by: they count in no batch."""
        schema = self._schema.append(pa.field(BATCH, pa.string()))
        parts = [schema.empty_table()]
        if self._batches is not None:
            mine = (pc.field(VERSION) == version.version) & (pc.field(SCORED_AT) <= pa.scalar(at, UTC_TIME))
            mine &= pc.field(SCORED_AT) > pa.scalar(since, UTC_TIME)
            mine &= pc.field(ID).is_null() | ~pc.field(ID).isin(learned)
            there = self._tables.dataset(self._batches).schema.names
            names = [name for name in self._schema.names if name in there]
            rows = self._tables.read(self._batches, [*dict.fromkeys([*names, BATCH, SCORED_AT])], mine)
            rows = rows.append_column(MOMENT, rows[SCORED_AT])
            parts.append(self._cast(rows).append_column(BATCH, rows[BATCH].cast(pa.string())))
        if self._log is not None:
            answered = (pc.field("role") != "shadow") & (pc.field("model_version") == version.version)
            answered &= pc.field("at") <= pa.scalar(at, UTC_TIME)
            limits: list[Limit] = [("at", ">", since), (PARTITION, ">=", f"{since:%Y-%m-%d}")]
            for rows in self._tables.parts(self._log, _ANSWER, PART_ROWS, answered, limits):
                told = self._told(rows)
                parts.append(told.append_column(BATCH, pa.repeat(pa.scalar(LOGGED), len(told))))
        return pa.concat_tables(parts)

    def _scored(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        if self._batches is None:
            return
        there = self._tables.dataset(self._batches).schema.names
        within = _between("decision_time", start, end)
        last, seen = self._last(there, within), 0
        names = [n for n in ("decision_time", "id", BATCH, ROW, *self._schema.names) if n in there]
        for part in self._tables.parts(self._batches, list(dict.fromkeys(names)), PART_ROWS, where=within):
            rows = _named(part.filter(pa.array(last[seen : seen + len(part)])))
            seen += len(part)
            yield self._cast(rows.append_column(MOMENT, rows["decision_time"]))

    def _last(self, there: Sequence[str], within: Sequence[Limit]) -> Array:
        """Of each row of the batches, whether it was not scored again later; of their keys alone."""
        assert self._batches is not None
        names = [n for n in ("decision_time", "id", BATCH, ROW, SCORED_AT) if n in there]
        rows = pl.DataFrame(_named(self._tables.read(self._batches, names, where=within)))
        keys = ["decision_time", "id"]
        newest = rows.with_row_index("place").sort(SCORED_AT, maintain_order=True).unique(keys, keep="last")
        last = np.zeros(len(rows), dtype=bool)
        last[newest["place"].to_numpy()] = True
        return last

    def _asked(self, start: datetime, end: datetime) -> Iterator[pa.Table]:
        if self._log is None:
            return
        answered, within = pc.field("role") != "shadow", _asked_for(start, end)
        for rows in self._tables.parts(self._log, _ANSWER, PART_ROWS, answered, within):
            yield self._told(rows)

    def _told(self, rows: pa.Table) -> pa.Table:
        """Rows of the log, taken apart."""
        told = parse_json_column(rows["features"])
        columns: dict[str, Any] = {MOMENT: rows["at"], VERSION: rows["model_version"], ID: rows[ID]}
        for name, column in self._features.items():
            values = [row.get(name) for row in told]
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
            hint = "the predictions were made with other features; score again"
            raise FeatureError(f"not the problem's features: {error}", where="predictions", hint=hint) from None
        return pa.Table.from_arrays(columns, schema=self._schema)


def _named(rows: pa.Table) -> pa.Table:
    """A row that came with no id is named by its place in its batch."""
    if ROW not in rows.column_names:
        return rows
    place = pc.binary_join_element_wise(rows[BATCH].cast(pa.string()), rows[ROW].cast(pa.string()), ":")
    return rows.set_column(rows.column_names.index("id"), "id", pc.coalesce(rows["id"], place))


def _between(column: str, start: datetime, end: datetime) -> list[Limit]:
    first, last = (moment.replace(tzinfo=UTC) for moment in (start, end))
    return [(column, ">=", first), (column, "<", last)]


def _asked_for(start: datetime, end: datetime) -> list[Limit]:
    return [*_between("at", start, end), (PARTITION, ">=", f"{start:%Y-%m-%d}"), (PARTITION, "<=", f"{end:%Y-%m-%d}")]


def _files(tables: Tables, reference: TableVersion, moment: str) -> list[tuple[str, datetime | None, datetime | None]]:
    """Each file with the first and the last moment (naive UTC) of its rows, as far as its commit tells. Commits keep
    milliseconds, rounded down."""
    found = tables.bounds(reference, moment)
    return [(name, naive_utc(first), naive_utc(last)) for name, first, last in found]
