"""Stream the rows of a SQL query into an Arrow file of text cells: equal rows give equal bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from truecourse.data.parsing import value_text
from truecourse.errors import SourceError
from truecourse.problem.schema import Sql
from truecourse.settings import get_settings

ROWS = 20_000


def run_query(source: Sql, path: Path, where: str) -> None:
    """Write the query's rows to `path`, in the order of the database: an ORDER BY makes their digest repeatable.

    Raises SourceError, without the URL, if the connection is not in the settings or the database does not answer."""
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
        with engine.connect().execution_options(stream_results=True, yield_per=ROWS) as connection:
            result = connection.execute(text(source.query))
            _write(path, list(result.keys()), result.partitions(ROWS))
    except SQLAlchemyError as error:
        what = str(getattr(error, "orig", None) or error).strip()
        raise SourceError(what, where=place, hint="check the query, and that the database answers") from None
    finally:
        engine.dispose()


def _write(path: Path, names: list[str], partitions: Iterator[Any]) -> None:
    schema = pa.schema([(name, pa.string()) for name in names])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for rows in partitions:
            cells = [pa.array(map(value_text, column), pa.string()) for column in zip(*rows, strict=True)]
            writer.write_batch(pa.record_batch(cells, schema=schema))
