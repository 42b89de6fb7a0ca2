"""What a data file holds, column by column: the ground that `truecourse init` guesses from."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.csvform import CsvForm, csv_form, unpacked
from truecourse.errors import SourceError
from truecourse.sql import connect

Type = Literal["Text", "Integer", "Float", "Boolean", "Time"]
FEW = 20
"""So many distinct values are listed one by one."""
MARKERS = ("NaN", "nan", "null", "NULL", "Null", "None", "none", "?", "-", "N/A", "n/a", "#N/A")
"""What people write for "no value", beside the empty text and NA."""
_FORMS: dict[Type, str] = {
    "Boolean": r"(?i)true|false",
    "Integer": r"-?(0|[1-9]\d{0,17})",
    "Float": r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?",
    "Time": r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?",
}
_CASTS: dict[Type, str] = {
    "Text": "VARCHAR", "Integer": "BIGINT", "Float": "DOUBLE", "Boolean": "BOOLEAN", "Time": "TIMESTAMP",
}  # fmt: skip


@dataclass(frozen=True)
class ColumnProfile:
    """`type` is None for a column that no table can hold (a list, a struct, nothing but nulls)."""

    name: str
    position: int
    type: Type | None
    rows: int
    nulls: int
    distinct: int
    low: Any = None
    high: Any = None
    """Least and greatest value: numbers, naive UTC times, or the lengths of texts."""
    counts: tuple[tuple[Any, int], ...] = ()
    """Every value and its rows, most frequent first, if there are at most FEW."""
    whole: bool = False
    """A Float of whole numbers only."""

    @property
    def unique(self) -> bool:
        return self.nulls == 0 and self.distinct == self.rows > 1


@dataclass(frozen=True)
class FileProfile:
    path: Path
    csv: CsvForm | None
    null_values: tuple[str, ...]
    rows: int
    columns: tuple[ColumnProfile, ...]
    times: dict[str, tuple[tuple[datetime, int], ...]]
    """For each Time column, its days (at midnight) and how many labelled rows fall on each, in order."""


def table_name(data: Path) -> str:
    """The file's name as an identifier: `Sales 2024.csv.zip` is `sales_2024`."""
    stem = data.name.split(".")[0].lower()
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in stem).strip("_")[:50]
    return name if name[:1].isalpha() else f"table_{name}".rstrip("_")


def profile(data: Path, label: str | None = None) -> FileProfile:
    """Read the whole file, in bounded memory. Raises SourceError for a file that cannot be read or has no rows."""
    with unpacked(data) as file, connect() as connection:
        try:
            if _is_parquet(file):
                form, names, types = None, *_load_parquet(connection, file)
                markers: tuple[str, ...] = ()
            else:
                form = csv_form(file, str(data))
                names = list(form.header)
                _load_csv(connection, file, form)
                markers = _markers(connection, len(names))
                types = [_text_type(connection, position) for position in range(len(names))]
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            cause = str(error).splitlines()[0]
            raise SourceError(f"cannot be read: {cause}", where=str(data), cure="check the file") from None
        rows = _one(connection, "SELECT count(*) FROM data")[0]
        if not rows:
            raise SourceError("the file has no rows", where=str(data), cure="give a file with a header and rows")
        columns = tuple(_column(connection, i, n, t, rows) for i, (n, t) in enumerate(zip(names, types, strict=True)))
        labelled = f"c{names.index(label)} IS NOT NULL" if label in names else "true"
        times = {c.name: _days(connection, c.position, labelled) for c in columns if c.type == "Time"}
        return FileProfile(data.absolute(), form, markers, rows, columns, times)


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def _load_parquet(connection: duckdb.DuckDBPyConnection, file: Path) -> tuple[list[str], list[Type | None]]:
    schema = pq.read_schema(file)
    types = [_arrow_type(field.type) for field in schema]
    source = pq.ParquetFile(file)
    numbered = pa.schema([(f"c{i}", field.type) for i, field in enumerate(schema)])
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=numbered) for batch in source.iter_batches(65536))
    reader = pa.RecordBatchReader.from_batches(numbered, batches)
    casts = ", ".join(
        f"nullif(CAST(c{i} AS {_CASTS[kind]}), 'nan') AS c{i}"
        if kind == "Float"
        else f"CAST(c{i} AS {_CASTS[kind]}) AS c{i}"
        if kind
        else f"CAST(NULL AS VARCHAR) AS c{i}"
        for i, kind in enumerate(types)
    )
    connection.register("source", reader)
    connection.execute(f"CREATE TEMP TABLE data AS SELECT {casts} FROM source")  # noqa: S608
    return schema.names, types


def _arrow_type(kind: pa.DataType) -> Type | None:
    if pa.types.is_dictionary(kind):
        return _arrow_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "Boolean"
    if pa.types.is_integer(kind):
        return "Float" if kind == pa.uint64() else "Integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "Float"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "Time"
    return "Text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _load_csv(connection: duckdb.DuckDBPyConnection, file: Path, form: CsvForm) -> None:
    columns = {f"c{i}": "VARCHAR" for i in range(len(form.header))}
    connection.execute(
        "CREATE TEMP TABLE data AS SELECT * FROM read_csv(?, columns=?, delim=?, encoding=?, header=true, quote='\"', "
        "escape='\"', nullstr=['', 'NA'], auto_detect=false, null_padding=true, strict_mode=false, parallel=false)",
        [str(file), columns, form.delimiter, form.encoding],
    )


def _markers(connection: duckdb.DuckDBPyConnection, columns: int) -> tuple[str, ...]:
    """Signs of "no value" in columns that are numbers, booleans or times but for them; set to null everywhere."""
    found: set[str] = set()
    for position in range(columns):
        forms = " OR ".join(
            f"count(*) FILTER (NOT regexp_full_match(c{position}, '{form}')) = 0" for form in _FORMS.values()
        )
        others = f"FROM data WHERE c{position} IS NOT NULL AND NOT list_contains($marks, c{position})"
        if _one(connection, f"SELECT count(*) > 0 AND ({forms}) {others}", {"marks": list(MARKERS)})[0]:
            query = f"SELECT DISTINCT c{position} FROM data WHERE list_contains($marks, c{position})"  # noqa: S608
            found |= {row[0] for row in connection.execute(query, {"marks": list(MARKERS)}).fetchall()}
    for position in range(columns if found else 0):
        query = f"UPDATE data SET c{position} = NULL WHERE list_contains($marks, c{position})"  # noqa: S608
        connection.execute(query, {"marks": sorted(found)})
    return tuple(sorted(found))


def _text_type(connection: duckdb.DuckDBPyConnection, position: int) -> Type | None:
    """The narrowest type that every text of the column can be read as; the column is then converted to it."""
    column = f"c{position}"
    if _one(connection, f"SELECT count({column}) FROM data")[0] == 0:  # noqa: S608
        return None
    for kind, form in _FORMS.items():
        valid = f"regexp_full_match({column}, '{form}') AND TRY_CAST({column} AS {_CASTS[kind]}) IS NOT NULL"
        if _one(connection, f"SELECT bool_and({valid}) FROM data WHERE {column} IS NOT NULL")[0]:  # noqa: S608
            zoned = f"CAST(CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP)"
            using = zoned if kind == "Time" else f"CAST({column} AS {_CASTS[kind]})"
            connection.execute(f"ALTER TABLE data ALTER {column} TYPE {_CASTS[kind]} USING {using}")
            return kind
    return "Text"


def _column(
    connection: duckdb.DuckDBPyConnection, position: int, name: str, kind: Type | None, rows: int
) -> ColumnProfile:
    column = f"c{position}"
    held, distinct = _one(connection, f"SELECT count({column}), count(DISTINCT {column}) FROM data")  # noqa: S608
    if kind is None or not held:
        return ColumnProfile(name, position, None, rows, rows - held, distinct)
    value = f"length({column})" if kind == "Text" else column
    real = f"{column} IS NOT NULL" + (f" AND isfinite({column})" if kind == "Float" else "")
    low, high = _one(connection, f"SELECT min({value}), max({value}) FROM data WHERE {real}")  # noqa: S608
    whole = kind == "Float" and _one(connection, f"SELECT bool_and({column} = floor({column})) FROM data")[0]  # noqa: S608
    counts: list[tuple[Any, int]] = []
    if distinct <= FEW:
        query = f"SELECT {column}, count(*) FROM data WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608
        counts = connection.execute(query).fetchall()
    return ColumnProfile(name, position, kind, rows, rows - held, distinct, low, high, tuple(counts), bool(whole))


def _days(connection: duckdb.DuckDBPyConnection, position: int, labelled: str) -> tuple[tuple[datetime, int], ...]:
    day = f"CAST(date_trunc('day', c{position}) AS TIMESTAMP)"
    query = f"SELECT {day}, count(*) FROM data WHERE c{position} IS NOT NULL AND {labelled} GROUP BY 1 ORDER BY 1"  # noqa: S608
    return tuple(connection.execute(query).fetchall())


def _one(connection: duckdb.DuckDBPyConnection, query: str, parameters: Any = None) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row
