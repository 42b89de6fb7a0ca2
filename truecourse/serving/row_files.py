"""Files of rows to score, parsed as ingestion parses the problem's table, before validation by the contract.

If the problem's request is its only table, files have the dialect of the table's source and the column types of the
table; the label and columns that the model does not need are optional. For other problems, files have the standard
dialect (comma, header, UTF-8) and the column types of the request. JSON lines are parsed as requests are (ISO times,
numbers without symbols), unless the source is JSON lines itself.
"""

import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa

from truecourse.data.parsing import read_cells
from truecourse.data.readers import Rows, dialect, open_rows, require_columns
from truecourse.data.records import Chunk
from truecourse.data.sources import Located, locate_file, named_format
from truecourse.data.sql import connect, row_id
from truecourse.errors import SourceError
from truecourse.problem import Problem
from truecourse.problem.schema import (
    AnyColumn,
    Csv,
    Files,
    Float,
    Format,
    Integer,
    Objects,
    PackageData,
    Sql,
    Table,
    Text,
    Time,
    source_names,
)
from truecourse.serving.contract import DECISION_TIME, ID, Contract
from truecourse.storage.object_store import ObjectStore

Row = dict[str, Any] | str
"""The values by field; for a malformed line, a message with its number, fault and text."""


class UnreadableCell:
    """A cell that is not of its column's type. The contract refuses it and shows the text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a file, each with its id if the file has one."""

    rows: list[Row]
    ids: list[str | None]


@dataclass(frozen=True)
class RowFiles:
    """A reader of files of rows: columns by name, the source's dialect and format, and the table, whose key gives a
    row's id and whose time its decision time."""

    contract: Contract
    columns: Mapping[str, AnyColumn]
    csv: Csv = field(default_factory=Csv)
    format: Format | None = None
    table: Table | None = None
    needed: frozenset[str] = frozenset()
    """The fields that predictions depend on."""

    @property
    def time(self) -> str:
        return (self.table.time if self.table else None) or ""

    @classmethod
    def of(cls, problem: Problem, contract: Contract) -> "RowFiles":
        fields = {name: column for name, column in problem.request_fields.items() if name in contract.names}
        extras: dict[str, AnyColumn] = {ID: Text(nulls=True), DECISION_TIME: Time()}
        columns = {name: extras[name] for name in contract.extras} | fields
        needed = problem.needed_fields & {*contract.names}
        if problem.has_spine:
            return cls(contract, columns, needed=needed)
        table, source = problem.label_table, problem.label_table.source
        others = [name for name in (*table.key, table.time) if name is not None and name not in fields]
        columns |= {name: table.columns[name] for name in others}
        if isinstance(source, Sql):
            return cls(contract, columns, table=table, needed=needed)
        return cls(contract, columns, source.csv, source.format or named_format(_source_name(source)), table, needed)

    def locate(self, uri: str, path: Path) -> Located:
        """Locate a file of rows. Raises SourceError if its format is unknown."""
        return locate_file(uri, path, named_format(uri, path) or self.format, self.csv)

    def read(self, located: Located) -> Iterator[Part]:
        """Read all rows of a file. Raises SourceError if it cannot be read, or lacks a column that the model needs."""
        columns = self.columns
        if located.format == "jsonl" and self.format != "jsonl":
            columns = {name: _as_requested(column) for name, column in columns.items()}
        with open_rows(located) as rows:
            present = self._present(located, rows)
            for chunk in rows.chunks([rows.names.index(source) for source in present.values()]):
                if chunk.rows:
                    yield self._part(chunk, {name: columns[name] for name in present}, dialect(located))

    def _present(self, located: Located, rows: Rows) -> dict[str, str]:
        """Return the columns to read, with their names in the file: those of the table's source, or of a request.

        A file with columns must have all that predictions depend on; JSON may omit nulls."""
        named = {n: source if source in rows.names else n for n, source in source_names(self.columns).items()}
        needed = [name for name in self.columns if name in self.needed]
        if located.format == "jsonl":
            needed = [name for name in needed if not self.columns[name].nulls]
        if DECISION_TIME in self.contract.extras and DECISION_TIME not in rows.names:
            needed.append(self.time or DECISION_TIME)
        present = {name: source for name, source in named.items() if source in rows.names}
        absent = {named.get(name, name) for name in needed if name not in present}
        wanted = dict.fromkeys([*present.values(), *(named.get(name, name) for name in needed)])
        require_columns(located.uri, wanted, rows.names, absent)
        return present

    def _part(self, chunk: Chunk, columns: Mapping[str, AnyColumn], csv: Csv) -> Part:
        arrays: dict[str, pa.Array] = {}
        failed: dict[str, dict[int, str]] = {}
        for cells, (name, column) in zip(chunk.cells, columns.items(), strict=True):
            arrays[name], failed[name] = read_cells(cells, column, csv)
        values = {name: array.to_pylist() for name, array in arrays.items()}
        for name, texts in failed.items():
            for row, text in texts.items():
                values[name][row] = UnreadableCell(text)
        if self.time in values and DECISION_TIME in self.contract.extras:
            values[DECISION_TIME] = values[self.time]
        fields = [name for name in (*self.contract.extras, *self.contract.names) if name in values and name != ID]
        rows: list[Row] = [
            dict(zip(fields, row, strict=True)) for row in zip(*(values[name] for name in fields), strict=True)
        ] if fields else [{} for _ in range(chunk.rows)]  # fmt: skip
        for line in chunk.malformed:
            rows[line.row] = f"line {line.line}: {line.fault}: {line.text}"
        return Part(rows, self._ids(arrays, chunk.rows))

    def _ids(self, arrays: Mapping[str, pa.Array], rows: int) -> list[str | None]:
        if self.table and self.table.key and all(name in arrays for name in self.table.key):
            keys = pa.table({name: arrays[name] for name in self.table.key})
            keys = keys.append_column("_tc_row", pa.array(range(rows), pa.int64()))
            with connect() as connection:
                connection.register("keys", keys)
                found = connection.sql(f"SELECT {row_id(self.table)} AS id FROM keys ORDER BY _tc_row")  # noqa: S608
                ids: list[str | None] = found.to_arrow_table()["id"].to_pylist()
            return ids
        if ID in arrays and ID in self.contract.extras:
            return [text or None for text in arrays[ID].to_pylist()]
        return [None] * rows


def _source_name(source: Files | PackageData | Objects) -> str:
    return source.key if isinstance(source, Objects) else source.path


def _as_requested(column: AnyColumn) -> AnyColumn:
    if isinstance(column, Integer | Float):
        return replace(column, symbol="")
    return replace(column, format=None) if isinstance(column, Time) else column


def find_files(source: str, store: ObjectStore, temporary: Path) -> list[tuple[str, Path]]:
    """Find files by path, glob, or key or glob in object storage; the latter are downloaded to `temporary`.

    Returns the name and path of each. Raises SourceError if there are none."""
    local = sorted(Path(found) for found in glob.glob(source) if Path(found).is_file())  # noqa: PTH207 - the pattern may be absolute
    if local:
        return [(path.as_posix(), path) for path in local]
    prefix = source[: min((source.find(sign) for sign in "*?[" if sign in source), default=len(source))]
    is_key = bool(prefix) and not Path(source).is_absolute() and ".." not in Path(source).parts
    keys = [key for key in store.list(prefix) if key == source or fnmatch(key, source)] if is_key else []
    found = [(f"object:{key}", temporary / f"{number}-{Path(key).name}") for number, key in enumerate(keys)]
    for key, (_, path) in zip(keys, found, strict=True):
        store.download(key, path)
    if not found:
        hint = f"give a path, a glob, or a key below {store.root}"
        raise SourceError("no such file", where=source, hint=hint)
    return found


def row_json(row: Row) -> str:
    """Serialize a row as JSON for the table of rejected rows."""
    return json.dumps(row, default=str, ensure_ascii=False)
