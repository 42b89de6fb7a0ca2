"""Run the query of a table's source, whole or from where a cursor column stands.

A cursor value is stored as text: its kind, a space, and the value (`time 2024-03-01T10:00:00+00:00`, `number 17`, `text
2024-03-01`).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from truecourse.data.parsing import value_text
from truecourse.errors import SourceError
from truecourse.problem.schema import Sql
from truecourse.settings import get_settings

QUERY_ROWS = 20_000
"""Rows of a query that are fetched at once."""
_SINCE = "tc_since"


def run_query(source: Sql, path: Path, where: str, *, after: str = "", order: Sequence[str] = ()) -> str:
    """Write the query's rows to `path` as an Arrow file of text cells, in the order of the database. Equal rows give
    equal bytes: an ORDER BY makes their digest repeatable.

    With a cursor, the rows are ordered by it and the columns of `order`, and its highest value is returned. Given
    `after`, such a value, only rows are read whose cursor is at most the source's `look_back` below it, or null.

    Raises SourceError, without the URL, if the connection is not in the settings, the database does not answer, or the
    cursor is no column of the query or has values without an order."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    place = f"{where}: connection {source.connection!r}"
    url = get_settings().connections.get(source.connection)
    if url is None:
        known = ", ".join(get_settings().connections) or "none"
        hint = f"set TRUECOURSE_CONNECTIONS__{source.connection.upper()} to its URL (known: {known})"
        raise SourceError("it is not in the settings", where=place, hint=hint)
    try:
        engine = create_engine(url.get_secret_value())
    except (ArgumentError, ImportError) as error:
        what = f"{type(error).__name__}: the URL is malformed, or its driver is not installed"
        raise SourceError(what, where=place, hint="write it in SQLAlchemy's form: dialect+driver://...") from None
    try:
        with engine.connect().execution_options(stream_results=True, yield_per=QUERY_ROWS) as connection:
            statement, parameters = text(source.query), dict[str, Any]()
            if source.cursor is not None:
                statement, parameters = _ordered_statement(source, after, order, connection, place)
            result = connection.execute(statement, parameters)
            names = list(result.keys())
            highest = _Highest(names.index(source.cursor) if source.cursor is not None else None, after, place)
            _write_cells(path, names, map(highest.note, result.partitions(QUERY_ROWS)))
    except SQLAlchemyError as error:
        what = str(getattr(error, "orig", None) or error).strip()
        raise SourceError(what, where=place, hint="check the query, and that the database answers") from None
    finally:
        engine.dispose()
    return highest.value


def _ordered_statement(
    source: Sql, after: str, order: Sequence[str], connection: Any, place: str
) -> tuple[Any, dict[str, Any]]:
    """The statement that reads the rows in the order of the cursor, after its value if there is one; with its
    parameters."""
    from sqlalchemy import text

    query = f"SELECT * FROM ({source.query.strip().rstrip(';')}) tc_rows"  # noqa: S608 (the problem's own query)
    names = list(connection.execute(text(f"{query} WHERE 1 = 0")).keys())
    assert source.cursor is not None
    if source.cursor not in names:
        hint = f"its columns: {', '.join(names)}"
        raise SourceError(f"the query has no column {source.cursor!r}, its cursor", where=place, hint=hint)
    quote = connection.dialect.identifier_preparer.quote
    cursor = quote(source.cursor)
    columns = ", ".join(dict.fromkeys([cursor, *(quote(name) for name in order if name in names)]))
    if not after:
        return text(f"{query} ORDER BY {columns}"), {}
    since = f"{cursor} >= :{_SINCE} OR {cursor} IS NULL"
    return text(f"{query} WHERE {since} ORDER BY {columns}"), {_SINCE: _before(after, source.look_back, place)}


class _Highest:
    """Notes the highest cursor value of the rows that pass. `position`: of the cursor in a row; None without one."""

    def __init__(self, position: int | None, after: str, place: str) -> None:
        self.value = after
        self._position, self._place = position, place

    def note(self, rows: Sequence[Any]) -> Sequence[Any]:
        values = [row[self._position] for row in rows] if self._position is not None else []
        for text in {cursor_text(value, self._place) for value in values if value is not None}:
            self.value = text if not self.value or is_later(text, self.value) else self.value
        return rows


def cursor_text(value: Any, place: str) -> str:
    """The text of a cursor value. Raises SourceError for a value without an order."""
    if isinstance(value, datetime):
        return f"time {value.isoformat()}"
    if isinstance(value, date):
        return f"date {value.isoformat()}"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"number {value}"
    if isinstance(value, str):
        return f"text {value}"
    what = f"the cursor has a value of type {type(value).__name__}: {value_text(value)}"
    raise SourceError(what, where=place, hint="choose a column of times, dates, numbers or texts as cursor")


def parse_cursor(text: str) -> Any:
    kind, _, value = text.partition(" ")
    parsers: dict[str, Callable[[str], Any]] = {
        "time": datetime.fromisoformat, "date": date.fromisoformat, "number": Decimal, "text": str,
    }  # fmt: skip
    return parsers[kind](value)


def is_later(one: str, other: str) -> bool:
    """Whether a cursor value is above another; also if they cannot be compared, because the column's type changed."""
    try:
        return bool(parse_cursor(one) > parse_cursor(other))
    except TypeError:
        return True


def _before(after: str, look_back: timedelta | int, place: str) -> Any:
    """The value `look_back` below a cursor value, as a parameter of a query."""
    value = parse_cursor(after)
    if isinstance(value, Decimal):
        value = int(value) if value == int(value) else float(value)
    if not look_back:
        return value
    if isinstance(look_back, int) is not isinstance(value, int | float):
        form = "a number" if isinstance(value, int | float) else "a duration"
        raise SourceError(f"look_back must be {form}: the cursor is at {value}", where=place, hint="correct look_back")
    if isinstance(value, str):
        return _text_before(value, look_back, place)
    return value - look_back


def _text_before(value: str, look_back: timedelta | int, place: str) -> str:
    """The time `look_back` before one that is written as text, in the same form."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        what = f"the cursor is at {value!r}, which is no time in ISO 8601"
        raise SourceError(
            what, where=place, hint="leave look_back out, or make the cursor a time in the query"
        ) from None
    assert isinstance(look_back, timedelta)
    moment -= look_back
    if len(value) == len("2024-01-01"):
        return moment.date().isoformat()
    text = moment.isoformat(sep=value[10], timespec="auto" if "." in value or moment.microsecond else "seconds")
    return text.replace("+00:00", "Z") if value.endswith("Z") else text


def _write_cells(path: Path, names: list[str], partitions: Iterable[Any]) -> None:
    schema = pa.schema([(name, pa.string()) for name in names])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for rows in partitions:
            cells = [pa.array(map(value_text, column), pa.string()) for column in zip(*rows, strict=True)]
            writer.write_batch(pa.record_batch(cells, schema=schema))
