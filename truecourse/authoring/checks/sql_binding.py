"""Bind one SQL file at a time in DuckDB, and turn DuckDB's errors into faults with a line and a hint."""

import json
import re
from typing import Any

import duckdb

from truecourse.data.sql import quote, statement
from truecourse.errors import Fault
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Boolean, Float, Integer, Text, Time
from truecourse.wording import nearest

SQL_TYPES: dict[type, str] = {
    Text: "VARCHAR", Integer: "BIGINT", Float: "DOUBLE", Boolean: "BOOLEAN", Time: "TIMESTAMP",
}  # fmt: skip
MOST_FAULTS = 20
_NAME = re.compile(rb'(?:"(?:[^"]|"")+"|\w+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|\w+))*')


class BindingError(Exception):
    """A file does not bind. `faults` is empty if the cause is a fault of another file."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults


class Binding:
    """A DuckDB database with empty tables of the declared types, and a view for each relation that binds."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, problem: Namespace) -> None:
        self.connection, self.problem = connection, problem
        self.names = [table.name for table in problem.tables]
        self.broken: set[str] = set()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET errors_as_json = true")
        for table in problem.tables:
            columns = {name.lower(): f"{quote(name)} {SQL_TYPES[type(c)]}" for name, c in table.columns.items()}
            if columns:
                connection.execute(f"CREATE OR REPLACE TABLE {quote(table.name)} ({', '.join(columns.values())})")

    def add_relation(self, name: str, file: str) -> None:
        """Add a relation as a view. On failure, mark it as broken and raise BindingError."""
        try:
            self.types(file)
            self.connection.execute(f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {statement(self.problem, file)}")
            self.names.append(name)
        except BindingError:
            self.broken.add(name.lower())
            raise

    def types(self, file: str) -> dict[str, str]:
        """The DuckDB type of every column that a file's SELECT returns. Raises BindingError with the file's faults."""
        sql = self._one_select(file)
        faults: list[Fault] = []
        text = sql.encode()
        skipped = self._lines_before(file)
        while len(faults) < MOST_FAULTS:
            try:
                described = self.connection.execute("DESCRIBE " + text.decode()).fetchall()
            except duckdb.Error as error:
                details = _error_details(error)
                if str(details.get("name", "")).lower() in self.broken:
                    raise BindingError(*faults) from None
                at = int(details.get("position", len("DESCRIBE "))) - len("DESCRIBE ")
                line = skipped + text[:at].count(b"\n")
                fault = self._fault(f"{file}:{line}", details)
                faults.append(fault)
                found = _NAME.match(text, at)
                if _unknown_column(details) is None or found is None:
                    raise BindingError(*faults) from None
                # Replace the unknown column by NULL, so that the file's next fault is found too.
                text = text[:at] + b"NULL" + text[found.end() :]
            else:
                break
        if faults:
            raise BindingError(*faults)
        return {row[0]: row[1] for row in described}

    def expression_type(self, where: str, table: str, expression: str) -> str:
        """The DuckDB type of an expression on one row of a table. Raises BindingError with a fault at `where`."""
        query = f"SELECT ({expression}\n) AS __value, * FROM {quote(table)}"  # noqa: S608
        try:
            if len(duckdb.extract_statements(query)) != 1:
                raise BindingError(Fault(where, "holds several statements", "write one expression"))
            return str(self.connection.execute(f"DESCRIBE {query}").fetchall()[0][1])
        except duckdb.Error as error:
            raise BindingError(self._fault(where, _error_details(error))) from None

    def _one_select(self, file: str) -> str:
        try:
            sql = statement(self.problem, file)
        except OSError:
            folder = self.problem.folder
            existing = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.sql"))]
            raise BindingError(Fault(file, "no such file", nearest(file, existing))) from None
        except UnicodeDecodeError:
            raise BindingError(Fault(file, "is not UTF-8 text", "save it as UTF-8")) from None
        try:
            count = len(duckdb.extract_statements(sql))
        except duckdb.Error:
            return sql  # a syntax error: binding reports it with its place
        if count != 1:
            raise BindingError(Fault(file, f"holds {count} statements", "write one SELECT"))
        try:
            duckdb.extract_statements(f"SELECT * FROM ({sql}) AS query")  # noqa: S608
        except duckdb.Error:
            hint = "write one SELECT, and do not end the file with a comment"
            raise BindingError(Fault(file, "cannot be used inside another query", hint)) from None
        return sql

    def _fault(self, where: str, details: dict[str, Any]) -> Fault:
        message = str(details["exception_message"]).split("\n")[0].rstrip("!")
        name, column = str(details.get("name", "")), _unknown_column(details)
        if column is not None:
            candidates = [c.strip().strip('"') for c in str(details.get("candidates", "")).split(",") if c.strip()]
            return Fault(where, f"unknown column {column}", nearest(column, candidates or self._columns()))
        if details.get("type") == "Table":
            later = name in self.problem.relations
            hint = "move that relation before this one: they bind in order" if later else nearest(name, self.names)
            return Fault(where, f"unknown table {name}", hint)
        return Fault(where, message, "correct the SQL (DuckDB's dialect)")

    def _lines_before(self, file: str) -> int:
        """The number of the file's first line that is not blank."""
        text = self.problem.text(file)
        return 1 + text[: len(text) - len(text.lstrip())].count("\n")

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for table in self.problem.tables for name in table.columns))


def _unknown_column(details: dict[str, Any]) -> str | None:
    if details.get("error_subtype") == "COLUMN_NOT_FOUND":
        return str(details.get("name"))
    found = re.search(r'does not have a column named "(.*)"', str(details["exception_message"]))
    return found[1] if found else None


def _error_details(error: duckdb.Error) -> dict[str, Any]:
    text = str(error)
    try:
        details: dict[str, Any] = json.loads(text[text.index("{") :])
    except ValueError:
        return {"exception_message": text}
    return details
