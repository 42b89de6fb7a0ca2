"""Names of datasets, by OpenLineage's conventions: https://openlineage.io/docs/spec/naming.

Files are in the namespace `file`, objects in that of their bucket, tables of databases in that of their server.
"""

from pathlib import Path
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Files, Objects, PackageData, Sql, Table
from truecourse.settings import get_settings

_SCHEMES = {"postgresql": "postgres", "mssql": "sqlserver"}
"""Dialects of SQLAlchemy that OpenLineage names otherwise."""
_SCHEMAS = {"postgres": "public", "sqlserver": "dbo"}
"""The schema of a table that is named without one."""
RUNS, VERSIONS = "runs", "versions"


class Place(NamedTuple):
    """A dataset's namespace and name."""

    namespace: str
    name: str


def stored(key: str) -> Place:
    """The place of an object or table below the storage root."""
    root = get_settings().storage_root
    if not root.startswith("s3://"):
        return Place("file", f"{root}/{key}")
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    return Place(f"s3://{bucket}", f"{prefix}/{key}".lstrip("/"))


def models(problem: str, kind: str) -> Place:
    """The dataset of a problem's training runs (RUNS), or of its registered versions (VERSIONS)."""
    return stored(f"models/{problem}/{kind}")


def snapshots(problem: str) -> Place:
    return stored(f"snapshots/{problem}")


def file(path: str) -> Place:
    """The place of a file by path, or of an object by key."""
    return Place("file", str(Path(path).absolute()))


def sources(namespace: Namespace, table: Table) -> list[Place]:
    """The datasets that a table is read from: one, or the tables of a query. All files of a glob are one dataset."""
    source = table.source
    if isinstance(source, Files):
        return [file(str(namespace.folder / source.path))]
    if isinstance(source, PackageData):
        return [Place("package", f"{source.package}/{source.path}")]
    if isinstance(source, Objects):
        return [stored(source.key)]
    return _queried(source)


def _queried(source: Sql) -> list[Place]:
    """The tables of a query, or its connection if the query cannot be parsed. Secrets of the URL are left out."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    secret = get_settings().connections.get(source.connection)
    try:
        url = make_url(secret.get_secret_value() if secret is not None else "")
    except ArgumentError:
        return [Place("sql", source.connection)]
    dialect = url.get_backend_name()
    scheme = _SCHEMES.get(dialect, dialect)
    server = f"{scheme}://{url.host}" + (f":{url.port}" if url.port else "") if url.host else scheme
    database = url.database or source.connection
    names = [".".join([database, *parts]) for parts in _tables(source.query, scheme)]
    return [Place(server, name) for name in names or [database]]


def _tables(query: str, scheme: str) -> list[list[str]]:
    """The schema and name of each table of a query."""
    try:
        parsed = sqlglot.parse_one(query, dialect={"sqlserver": "tsql"}.get(scheme, scheme))
    except (SqlglotError, ValueError):
        return []
    named = {alias.alias_or_name for alias in parsed.find_all(exp.CTE)}
    tables = [table for table in parsed.find_all(exp.Table) if table.db or table.name not in named]
    found = [[schema] if (schema := table.db or _SCHEMAS.get(scheme, "")) else [] for table in tables]
    return sorted([*schema, table.name] for schema, table in zip(found, tables, strict=True))
