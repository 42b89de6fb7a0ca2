"""Remove a subject from SQLite databases, those of MLflow, Prefect and the online store: their texts are replaced."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from truecourse.erasure.subject import Subject
from truecourse.errors import StorageError

MAGIC = b"SQLite format 3\x00"
BUSY = 30.0
"""Seconds to wait for other processes that write."""


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def count_texts(path: Path, subjects: Sequence[Subject]) -> int:
    """The number of replacements that mask_texts() makes."""
    with _open(path, "ro") as database:
        return sum(count for *_, count in _found(database, subjects))


def mask_texts(path: Path, subjects: Sequence[Subject]) -> int:
    """Replace the subjects' keys and values in every text of a database, and rewrite its file without the former
    texts. Return the number of replacements. Raises StorageError if another process keeps the database busy."""
    with _open(path) as database:
        found = list(_found(database, subjects))
        for table, column, row, new, _ in found:
            database.execute(f"UPDATE {_name(table)} SET {_name(column)} = ? WHERE rowid = ?", (new, row))  # noqa: S608
        database.commit()
        if found:
            compact(database)
    return sum(count for *_, count in found)


def compact(database: sqlite3.Connection) -> None:
    """Write the file anew, so that it holds no deleted bytes, and empty the write-ahead log."""
    database.execute("VACUUM")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def _open(path: Path, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    """Open a database whose texts are read as bytes. Raises StorageError for errors of SQLite, with the file."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=BUSY)) as database:
            database.text_factory = bytes
            yield database
    except sqlite3.Error as error:
        hint = "stop `truecourse up` and other servers that use it, and run the command again"
        raise StorageError(str(error), where=str(path), hint=hint) from error


def _found(database: sqlite3.Connection, subjects: Sequence[Subject]) -> Iterator[tuple[str, str, int, str, int]]:
    """(table, column, rowid, new value, replacements) of every text that changes."""
    for table, columns in _columns(database):
        for column in columns:
            name = _name(column)
            query = f"SELECT rowid, {name} FROM {_name(table)} WHERE typeof({name}) = 'text'"  # noqa: S608
            with closing(database.execute(query)) as rows:
                for row, text in rows:
                    count = 0
                    for subject in subjects:
                        text, replaced = subject.mask(text)
                        count += replaced
                    if count:
                        yield table, column, row, text.decode(), count


def _columns(database: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """The tables that have row numbers, with their columns."""
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "AND sql NOT LIKE '%WITHOUT ROWID%'"
    )
    names = [name.decode() for (name,) in database.execute(query).fetchall()]
    return [
        (name, [row[1].decode() for row in database.execute(f"PRAGMA table_info({_name(name)})")]) for name in names
    ]


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
