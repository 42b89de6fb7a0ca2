"""Binding one SQL file at a time, and turning what DuckDB says of it into faults with a line and a hint."""

import json
import re
from typing import Any

import duckdb

from truecourse.data.sql import quoted, statement
from truecourse.errors import Fault
from truecourse.problem import Problem
from truecourse.problem.schema import Boolean, Float, Integer, Text, Time
from truecourse.wording import nearest

SQL_TYPES: dict[type, str] = {
    Text: "VARCHAR", Integer: "BIGINT", Float: "DOUBLE", Boolean: "BOOLEAN", Time: "TIMESTAMP",
}  # fmt: skip
MOST_FAULTS = 20
_NAME = re.compile(rb'(?:"(?:[^"]|"")+"|\w+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|\w+))*')


class NoQuery(Exception):
    """A file does not bind; `faults` are none when that follows from faults of another file."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults


class Binding:
    """Empty tables of the declared types in DuckDB, and the relations that bind, each under its name."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, problem: Problem) -> None:
        self.connection, self.problem = connection, problem
        self.names = [table.name for table in problem.tables]
        self.broken: set[str] = set()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET errors_as_json = true")
        for table in problem.tables:
            columns = {name.lower(): f"{quoted(name)} {SQL_TYPES[type(c)]}" for name, c in table.columns.items()}
            if columns:
                connection.execute(f"CREATE OR REPLACE TABLE {quoted(table.name)} ({', '.join(columns.values())})")

    def add_relation(self, name: str, file: str) -> None:
        """Raises NoQuery, and remembers that what selects from this relation cannot be bound either."""
        try:
            self.types(file)
            self.connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS {statement(self.problem, file)}")
            self.names.append(name)
        except NoQuery:
            self.broken.add(name.lower())
            raise

    def types(self, file: str) -> dict[str, str]:
        """The DuckDB type of every column that a file's SELECT returns. Raises NoQuery with the file's faults."""
        sql = self._one_select(file)
        faults: list[Fault] = []
        text = sql.encode()
        skipped = self._lines_before(file)
        while len(faults) < MOST_FAULTS:
            try:
                described = self.connection.execute("DESCRIBE " + text.decode()).fetchall()
            except duckdb.Error as error:
                said = _said(error)
                if str(said.get("name", "")).lower() in self.broken:
                    raise NoQuery(*faults) from None
                at = int(said.get("position", len("DESCRIBE "))) - len("DESCRIBE ")
                fault = self._fault(file, said, skipped + text[:at].count(b"\n"))
                faults.append(fault)
                found = _NAME.match(text, at)
                if _unknown_column(said) is None or found is None:
                    raise NoQuery(*faults) from None
                # The unknown column gives way to a value, so that the next fault of the file shows too.
                text = text[:at] + b"NULL" + text[found.end() :]
            else:
                break
        if faults:
            raise NoQuery(*faults)
        return {row[0]: row[1] for row in described}

    def _one_select(self, file: str) -> str:
        try:
            sql = statement(self.problem, file)
        except OSError:
            folder = self.problem.folder
            there = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.sql"))]
            raise NoQuery(Fault(file, "no such file", nearest(file, there))) from None
        except UnicodeDecodeError:
            raise NoQuery(Fault(file, "is not UTF-8 text", "save it as UTF-8")) from None
        try:
            count = len(duckdb.extract_statements(sql))
        except duckdb.Error:
            return sql  # its syntax is wrong, as binding will tell with the place
        if count != 1:
            raise NoQuery(Fault(file, f"holds {count} statements", "write one SELECT"))
        try:
            duckdb.extract_statements(f"SELECT * FROM ({sql}) AS query")  # noqa: S608
        except duckdb.Error:
            hint = "write one SELECT, and end the file neither with a comment nor with one after a semicolon"
            raise NoQuery(Fault(file, "cannot be used inside another query", hint)) from None
        return sql

    def _fault(self, file: str, said: dict[str, Any], line: int) -> Fault:
        message = str(said["exception_message"]).split("\n")[0].rstrip("!")
        name, column = str(said.get("name", "")), _unknown_column(said)
        if column is not None:
            candidates = [c.strip().strip('"') for c in str(said.get("candidates", "")).split(",") if c.strip()]
            return Fault(f"{file}:{line}", f"unknown column {column}", nearest(column, candidates or self._columns()))
        if said.get("type") == "Table":
            later = name in self.problem.relations
            hint = "move that relation before this one: they are read in order" if later else nearest(name, self.names)
            return Fault(f"{file}:{line}", f"unknown table {name}", hint)
        return Fault(f"{file}:{line}", message, "correct the SQL (DuckDB's dialect)")

    def _lines_before(self, file: str) -> int:
        """The number of the file's first line that holds anything."""
        text = self.problem.text(file)
        return 1 + text[: len(text) - len(text.lstrip())].count("\n")

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for table in self.problem.tables for name in table.columns))


def _unknown_column(said: dict[str, Any]) -> str | None:
    if said.get("error_subtype") == "COLUMN_NOT_FOUND":
        return str(said.get("name"))
    found = re.search(r'does not have a column named "(.*)"', str(said["exception_message"]))
    return found[1] if found else None


def _said(error: duckdb.Error) -> dict[str, Any]:
    text = str(error)
    try:
        said: dict[str, Any] = json.loads(text[text.index("{") :])
    except ValueError:
        return {"exception_message": text}
    return said
