"""Bring a file, a clean table or a problem's decisions into one form: typed columns in a Parquet file, and a sample.

Rows are read once, in batches, so that memory is bounded for any number of rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truecourse.authoring.scaffold.column_types import FileTypes, choose_types, max_exceptions
from truecourse.authoring.scaffold.profile import find_files, table_name
from truecourse.authoring.scaffold.staging import StagedFiles, stage_files
from truecourse.data import sql, table_views
from truecourse.data.arrow_types import arrow_type
from truecourse.data.parsing import read_cells
from truecourse.data.sources import scratch
from truecourse.errors import NotFound, SourceError
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Table, Text, Time, shown_unit
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.wording import counted, nearest

SAMPLE = 100_000
"""The sample has at least this many rows, and less than twice as many; a smaller source is in it whole."""
TYPED_ROWS = 200_000
"""Rows from which the types of a file's columns are chosen. A type that does not hold for the rest becomes Text."""

Form = Literal["number", "category", "time"]


@dataclass(frozen=True)
class Column:
    """A column: `sql` is its name in DuckDB's view `data`.

    `unreadable`: the number of cells that do not parse as `declared`; `exceptions`: some of them, with their counts.
    `private`: its values are not shown. `role`: of a problem's column; empty for a file's."""

    name: str
    sql: str
    declared: AnyColumn
    unreadable: int = 0
    exceptions: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    private: bool = False
    role: str = ""

    @property
    def type(self) -> str:
        return type(self.declared).__name__

    @property
    def unit(self) -> str:
        return shown_unit(self.declared)

    @property
    def form(self) -> Form:
        if isinstance(self.declared, Time):
            return "time"
        return "number" if isinstance(self.declared, Integer | Float) else "category"


@dataclass(frozen=True)
class Roles:
    """What columns mean: the label, its kind, the moment of the decision, keys that identify rows, and the split."""

    label: str = ""
    kind: Kind | None = None
    time: str = ""
    keys: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class Source:
    """Rows to explore. `sample`: evenly spaced typed rows, by the columns' SQL names. `left_out`: columns that no table
    can hold, and why. `notes`: sentences about the files."""

    name: str
    title: str
    origin: str
    rows: int
    columns: tuple[Column, ...]
    sample: pa.Table
    connection: duckdb.DuckDBPyConnection
    roles: Roles = Roles()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> Column:
        """Raises NotFound for an unknown name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFound(f"no column {name!r}", where=self.origin, hint=nearest(name, [c.name for c in self.columns]))

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query over the view `data`."""
        rows: list[tuple[Any, ...]] = self.connection.execute(query).fetchall()
        return rows

    def values(self, column: Column) -> pa.Array:
        """A column's values in the sample; -0.0 is 0.0, as in SQL."""
        values = self.sample.column(column.sql).combine_chunks()
        return pc.add(values, 0.0) if pa.types.is_floating(values.type) else values

    @property
    def inputs(self) -> list[Column]:
        """The columns that could be model inputs: a problem's features, or else all but label and key."""
        features = [column for column in self.columns if column.role == "feature"]
        return features or [c for c in self.columns if c.name != self.roles.label and c.role != "key"]

    @property
    def whole(self) -> bool:
        """Whether the sample has all rows."""
        return len(self.sample) == self.rows


@contextmanager
def file_source(data: str, roles: Roles = Roles()) -> Iterator[Source]:
    """Read the files of a path or glob: CSV, JSON lines or Parquet.

    Raises SourceError for a file that cannot be read or has no rows, NotFound for an unknown column of `roles`."""
    origin, files = find_files(data)
    with stage_files(files, TYPED_ROWS) as staged, scratch() as folder, sql.connect() as connection:
        if not staged.rows:
            raise SourceError("has no rows", where=data, hint="give a file with a header and rows")
        types = choose_types(staged)
        while True:
            written = _Written(folder / "rows.parquet")
            columns = _write_file(staged, types, written)
            wrong = {i for i, count in columns.items() if count > max_exceptions(written.held[f"c{i}"] + count)}
            if not wrong:
                break
            types = _as_text(types, wrong)
        choices = types.choices
        found = tuple(
            Column(staged.names[i], f"c{i}", declared, columns[i], _exceptions(written.failed[i]), choices[i].remarks)
            for i in columns
            if (declared := choices[i].declared) is not None and written.held[f"c{i}"]
        )
        present = {column.sql for column in found}
        left_out = {
            name: choice.why_not or "is empty"
            for i, (name, choice) in enumerate(zip(staged.names, choices, strict=True))
            if f"c{i}" not in present
        } | dict.fromkeys(staged.absent, "only some of the files have it")
        _bind(connection, written.path)
        title = Path(data).name if len(files) == 1 else data
        source = Source(
            table_name(data), title, origin, written.rows, found, written.sample(), connection, roles, left_out,
            _file_notes(staged, len(files)),
        )  # fmt: skip
        for name in filter(None, (roles.label, roles.time, *roles.keys)):
            source.column(name)
        yield source


def _write_file(staged: StagedFiles, types: FileTypes, written: "_Written") -> dict[int, int]:
    """Write the typed rows of files; returns the number of unreadable cells of each column, by position."""
    declared = {i: c.declared for i, c in enumerate(types.choices) if c.declared is not None}
    failures: Counter[int] = Counter(dict.fromkeys(declared, 0))
    schema = pa.schema([(f"c{i}", arrow_type(column)) for i, column in declared.items()] or [("none", pa.null())])
    with closing(written.open(schema)):
        for batch in _ahead(staged.all_batches()):
            arrays = []
            for i, column in declared.items():
                array, failed = read_cells(batch.column(i), column, types.csv)
                arrays.append(array)
                failures[i] += len(failed)
                written.note_failures(i, failed.values())
            written.add(pa.RecordBatch.from_arrays(arrays or [pa.nulls(len(batch))], schema=schema))
    return dict(failures)


def _as_text(types: FileTypes, columns: set[int]) -> FileTypes:
    """The types with Text for the columns of which too many cells do not parse."""
    choices = [
        replace(choice, declared=Text(nulls=True), unreadable=0, exceptions=()) if i in columns else choice
        for i, choice in enumerate(types.choices)
    ]
    return replace(types, choices=tuple(choices))


def _exceptions(failed: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(failed.most_common(3))


def _file_notes(staged: StagedFiles, files: int) -> tuple[str, ...]:
    notes = [f"{counted(files, 'file')} in all"] if files > 1 else []
    if staged.malformed_lines:
        notes.append(f"{counted(staged.malformed_lines, 'malformed line')}: {staged.malformed[0]}")
    if staged.totals:
        notes.append(f"{counted(len(staged.totals), 'row')} of totals at the end, left out: {staged.totals[0][:80]}")
    if staged.titles:
        notes.append(f"{counted(len(staged.titles), 'title line')} above the header, skipped")
    return tuple(notes)


@contextmanager
def table_source(problem: Problem, name: str, version: int | None = None) -> Iterator[Source]:
    """Read the current rows of a clean table at a version, by default the newest one.

    Raises NotFound for an unknown table or version, and for a table that was never validated."""
    tables = Tables()
    table = next((table for table in problem.tables if table.name == name), None)
    if table is None:
        known = [each.name for each in problem.tables]
        raise NotFound(f"no table {name!r}", where=problem.name, hint=nearest(name, known))
    stored = clean_table(problem.name, name)
    newest = tables.version(stored)
    if newest is None:
        hint = f"truecourse run ingest --problem {problem.name}, then validate"
        raise NotFound("the table has no clean version", where=f"{problem.name}.{name}", hint=hint)
    if version is not None and version > newest.version:
        hint = f"its versions are 0 to {newest.version}"
        raise NotFound(f"no version {version}", where=f"{problem.name}.{name}", hint=hint)
    chosen = newest if version is None else TableVersion.model_validate(newest.model_dump() | {"version": version})
    with sql.connect() as connection, scratch() as folder:
        table_views.bind_table(connection, tables, table, chosen)
        reader = connection.sql(f"SELECT * FROM {sql.quote(name)}").to_arrow_reader(100_000)  # noqa: S608
        origin = f"{problem.name}.{name} version {chosen.version}"
        roles = _table_roles(problem, table)
        with _typed(folder, connection, reader, table.columns, _column_roles(problem, table)) as (columns, written):
            yield Source(
                f"{problem.name}_{name}", f"{problem.name}: {name}", origin, written.rows, columns, written.sample(),
                connection, roles,
            )  # fmt: skip


def _table_roles(problem: Problem, table: Table) -> Roles:
    if problem.has_spine or table is not problem.label_table:
        return Roles(time=table.time or "", keys=tuple(table.key))
    label = problem.label.column
    return Roles(label if isinstance(label, str) else "", problem.kind, table.time or "", tuple(table.key))


def _column_roles(problem: Problem, table: Table) -> dict[str, str]:
    roles = dict.fromkeys(table.key, "key") | ({table.time: "time"} if table.time else {})
    found = _table_roles(problem, table)
    return roles | ({found.label: "label"} if found.label else {})


@contextmanager
def decisions_source(problem: Problem, frame: pa.Table) -> Iterator[Source]:
    """The decisions of a problem, with their request fields, features, `label` and, after a split, `split`."""
    declared: dict[str, AnyColumn] = {}
    roles: dict[str, str] = {}
    for name in frame.column_names:
        kind = frame.schema.field(name).type
        column = problem.features.get(name) or problem.request.get(name) or _declared(kind)
        if column is not None and not name.startswith("_tc_"):
            declared[name] = column
            roles[name] = "feature" if name in problem.features else ""
    fixed = {"label": "label", "decision_time": "time", "decision_id": "key", "split": "split"}
    roles |= {name: role for name, role in fixed.items() if name in declared}
    of = {role: name for name, role in fixed.items() if name in declared}
    with sql.connect() as connection, scratch() as folder:
        reader = pa.RecordBatchReader.from_batches(frame.schema, frame.to_batches(max_chunksize=100_000))
        with _typed(folder, connection, reader, declared, roles) as (columns, written):
            known = Roles(
                of.get("label", ""), problem.kind, of.get("time", ""), (of["key"],) if "key" in of else (),
                of.get("split", ""),
            )  # fmt: skip
            yield Source(
                f"{problem.name}_decisions", f"{problem.name}: decisions", f"decisions of {problem.name}", written.rows,
                columns, written.sample(), connection, known,
            )  # fmt: skip


def _declared(kind: pa.DataType) -> AnyColumn | None:
    if pa.types.is_boolean(kind):
        return Boolean(nulls=True)
    if pa.types.is_integer(kind):
        return Integer(nulls=True)
    if pa.types.is_floating(kind):
        return Float(nulls=True)
    if pa.types.is_timestamp(kind):
        return Time(nulls=True)
    return Text(nulls=True) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


@contextmanager
def _typed(
    folder: Path,
    connection: duckdb.DuckDBPyConnection,
    batches: Iterable[pa.RecordBatch],
    declared: Mapping[str, AnyColumn],
    roles: Mapping[str, str],
) -> Iterator[tuple[tuple[Column, ...], "_Written"]]:
    """Write rows of declared columns. Raises SourceError if there are none."""
    written = _Written(folder / "rows.parquet")
    schema = pa.schema([(f"c{i}", arrow_type(column)) for i, column in enumerate(declared.values())])
    with closing(written.open(schema)):
        for batch in batches:
            arrays = [_cast(batch.column(name), field.type) for name, field in zip(declared, schema, strict=True)]
            written.add(pa.RecordBatch.from_arrays(arrays, schema=schema))
    if not written.rows:
        raise SourceError("has no rows", hint="truecourse status shows what was ingested")
    _bind(connection, written.path)
    columns = tuple(
        Column(name, f"c{i}", column, private=column.private is not None, role=roles.get(name, ""))
        for i, (name, column) in enumerate(declared.items())
    )
    yield columns, written


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(array.type) and array.type.tz is None and pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    return array.cast(kind, safe=False)


def _bind(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Create the view `data` of the rows; times are naive and in UTC."""
    text = str(path).replace("'", "''")
    schema = pq.read_schema(path)
    columns = ", ".join(
        f"CAST({field.name} AS TIMESTAMP) AS {field.name}" if pa.types.is_timestamp(field.type) else field.name
        for field in schema
    )
    connection.execute(f"CREATE TEMP VIEW data AS SELECT {columns} FROM read_parquet('{text}')")  # noqa: S608


class _Written:
    """Rows in a Parquet file, with evenly spaced rows of them in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.held: Counter[str] = Counter()
        self.failed: dict[int, Counter[str]] = {}
        self._kept: list[pa.RecordBatch] = []
        self._step = 1

    def open(self, schema: pa.Schema) -> pq.ParquetWriter:
        self._schema = schema
        self._writer = pq.ParquetWriter(self.path, schema, compression="lz4", use_dictionary=False)
        return self._writer

    def add(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self.held[name] += len(column) - column.null_count
        self._kept.append(batch.take(pa.array(range(-self.rows % self._step, len(batch), self._step), pa.int64())))
        self.rows += len(batch)
        while sum(map(len, self._kept)) >= 2 * SAMPLE:
            merged = pa.Table.from_batches(self._kept).combine_chunks()
            self._kept = merged.take(pa.array(range(0, len(merged), 2), pa.int64())).to_batches()
            self._step *= 2

    def note_failures(self, column: int, texts: Iterable[str]) -> None:
        counts = self.failed.setdefault(column, Counter())
        for text in texts:
            if len(counts) < 100 or text in counts:
                counts[text] += 1

    def sample(self) -> pa.Table:
        return pa.Table.from_batches(self._kept, self._schema).combine_chunks()


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, each of them read in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch


def as_roles(label: str | None, time: str | None, keys: Sequence[str]) -> Roles:
    """The roles that a user states about a file."""
    return Roles(label=label or "", time=time or "", keys=tuple(keys))
