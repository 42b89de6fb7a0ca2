"""Differences between two versions of a clean table: rows by key, columns, and quarantined rows."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from truecourse.data import sql
from truecourse.data.deliveries import read_deliveries
from truecourse.data.former_columns import stored_names
from truecourse.data.quarantine import REASONS, quarantine_of
from truecourse.data.sql import CURRENT, ROW
from truecourse.data.table_edits import Edit
from truecourse.errors import FeatureError, NotFound
from truecourse.lineage.source_rows import FIRST, select_table
from truecourse.problem import Problem
from truecourse.problem.schema import RESERVED_PREFIX, Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.wording import nearest


def table_version(tables: Tables, problem: Problem, text: str) -> tuple[Table, TableVersion]:
    """Return the clean table's version that `orders@3` names; `orders` is the newest.

    Raises NotFound for an unknown table or version."""
    name, _, number = text.partition("@")
    owner, table = select_table(problem, name)
    newest = tables.version(clean_table(owner.name, table.name))
    if newest is None:
        hint = f"truecourse run ingest --problem {problem.name}, then validate"
        raise NotFound("the table has no clean version", where=f"{problem.name}.{name}", hint=hint)
    known = [str(version) for version, _ in tables.commits(newest.name)]
    if number and number not in known:
        raise NotFound(f"no version {number}", where=f"{problem.name}.{name}", hint=nearest(number, known))
    return table, TableVersion(name=newest.name, version=int(number)) if number else newest


def diff_tables(tables: Tables, problem: Problem, one: str, other: str) -> dict[str, Any]:
    """Compare two versions of a table: {"kind": "table", "from", "to", "rows", "columns", "edits", "deliveries",
    "quarantine" of both}.

    `rows`: current rows that were added, removed and changed (by key; without key, a changed row is removed and added),
    with the first of each. Raises NotFound for an unknown version, or for versions of two tables."""
    (table, before), (_, after) = (table_version(tables, problem, text) for text in (one, other))
    if before.name != after.name:
        hint = f"compare {table.name}@{before.version} with another version of {table.name}"
        raise NotFound("these are two tables", where=f"{one} and {other}", hint=hint)
    sides = [_side(tables, version, max(before, after, key=lambda v: v.version)) for version in (before, after)]
    types = [dict(side.types) for side in sides]
    shared = [name for name in types[0] if name in types[1]]
    with sql.connect() as connection:
        for name, side in zip(("before", "after"), sides, strict=True):
            connection.register(f"{name}_rows", tables.dataset(side.version))
            values = ", ".join([ROW, *(_value(side.stored[n], n, types[0][n], types[1][n]) for n in shared)])
            connection.execute(f"CREATE TEMP VIEW {name} AS SELECT {values} FROM {name}_rows WHERE {CURRENT}")  # noqa: S608
        keyed = bool(table.key) and set(table.key) <= {*shared}
        rows = _by_key(connection, table, shared) if keyed else _by_values(connection, shared)
    return {
        "kind": "table",
        "from": str(before),
        "to": str(after),
        "key": list(table.key) if keyed else [],
        "rows": rows,
        "columns": _columns(*types),
        "edits": _edits(tables, before, after),
        "deliveries": _deliveries(tables, problem, table, before, after),
        "quarantine": [_quarantine(tables, problem, table, version) for version in (before, after)],
    }


@dataclass(frozen=True)
class _Side:
    """A version with its columns under the names of the newer one: their types, and the names that are stored."""

    version: TableVersion
    types: Mapping[str, str]
    stored: Mapping[str, str]


def _side(tables: Tables, version: TableVersion, newer: TableVersion) -> _Side:
    schema = tables.dataset(version).schema
    kinds = {field.name: str(field.type) for field in schema if not field.name.startswith(RESERVED_PREFIX)}
    try:
        names = stored_names(tables, newer, kinds)
    except FeatureError:  # the newer version was read again under another declaration
        names = {}
    names = {name: names.get(name) or name for name in kinds}
    return _Side(version, {names[n]: kind for n, kind in kinds.items()}, {new: old for old, new in names.items()})


def _edits(tables: Tables, before: TableVersion, after: TableVersion) -> list[str]:
    """The edits of the declaration between both versions, in words."""
    first, last = sorted((before.version, after.version))
    commits = [commit for number, commit in tables.commits(after.name) if first < number <= last]
    return [Edit(**edit).sentence for commit in commits for edit in commit.get("edits", ())]


def _value(stored: str, name: str, kind: str, other: str) -> str:
    """SQL of a column under a name that both sides have; of a column that became text, its text."""
    as_text = kind != other and not {kind, other} <= {"int64", "double"}
    return f"{f'CAST({sql.quote(stored)} AS VARCHAR)' if as_text else sql.quote(stored)} AS {sql.quote(name)}"


def _columns(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    return {
        "added": {name: kind for name, kind in after.items() if name not in before},
        "removed": {name: kind for name, kind in before.items() if name not in after},
        "changed": {n: [kind, after[n]] for n, kind in before.items() if n in after and after[n] != kind},
    }


def _by_key(connection: duckdb.DuckDBPyConnection, table: Table, shared: list[str]) -> dict[str, Any]:
    """Join the current rows of both sides by key."""
    keys, values = list(map(sql.quote, table.key)), [name for name in shared if name not in table.key]
    on = " AND ".join(f"b.{key} IS NOT DISTINCT FROM a.{key}" for key in keys)
    differs = {name: f"b.{sql.quote(name)} IS DISTINCT FROM a.{sql.quote(name)}" for name in values}
    changed = " OR ".join(differs.values()) or "false"
    cells = ", ".join(f"[b.{sql.quote(n)}, a.{sql.quote(n)}] AS {sql.quote(n)}" for n in values)
    known = ", ".join(f"coalesce(b.{key}, a.{key}) AS {key}" for key in keys)
    connection.execute(
        f"CREATE TEMP TABLE compared AS SELECT CASE WHEN b.{ROW} IS NULL THEN 'added' WHEN a.{ROW} IS NULL "  # noqa: S608
        f"THEN 'removed' ELSE 'changed' END AS kind, {known}{', ' + cells if cells else ''} "
        f"FROM before AS b FULL JOIN after AS a ON {on} WHERE b.{ROW} IS NULL OR a.{ROW} IS NULL OR {changed}"
    )
    counts = dict(connection.execute("SELECT kind, count(*) FROM compared GROUP BY kind").fetchall())
    by_column = {}
    for name in values:
        cell = sql.quote(name)
        query = f"SELECT count(*) FROM compared WHERE kind = 'changed' AND {cell}[1] IS DISTINCT FROM {cell}[2]"  # noqa: S608
        by_column[name] = connection.execute(query).fetchall()[0][0]
    return {
        **_sizes(connection),
        **{kind: counts.get(kind, 0) for kind in ("added", "removed", "changed")},
        "by_column": {name: count for name, count in by_column.items() if count},
        "first": {kind: _first(connection, kind, keys, table) for kind in ("added", "removed", "changed")},
    }


def _sizes(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return {side: connection.execute(f"SELECT count(*) FROM {side}").fetchall()[0][0] for side in ("before", "after")}  # noqa: S608


def _first(connection: duckdb.DuckDBPyConnection, kind: str, keys: list[str], table: Table) -> list[dict[str, Any]]:
    """The first rows of a kind by key: the values of an added or removed row, both values of changed cells."""
    query = f"SELECT * EXCLUDE (kind) FROM compared WHERE kind = '{kind}' ORDER BY {', '.join(keys)} LIMIT {FIRST}"  # noqa: S608
    found = connection.sql(query).to_arrow_table().to_pylist()
    side = 1 if kind == "added" else 0

    def cell(name: str, value: Any) -> Any:
        return value if name in table.key or kind == "changed" else value[side]

    return [
        {name: cell(name, value) for name, value in row.items()
         if name in table.key or kind != "changed" or value[0] != value[1]}
        for row in found
    ]  # fmt: skip


def _by_values(connection: duckdb.DuckDBPyConnection, shared: list[str]) -> dict[str, Any]:
    """Compare the current rows of both sides as multisets, without a key."""
    names = ", ".join(map(sql.quote, shared))
    found: dict[str, Any] = {"changed": 0, "by_column": {}, "first": {"changed": []}}
    for kind, this, that in (("added", "after", "before"), ("removed", "before", "after")):
        query = f"SELECT {names} FROM {this} EXCEPT ALL SELECT {names} FROM {that}"  # noqa: S608
        connection.execute(f"CREATE TEMP TABLE {kind} AS {query}")
        found[kind] = connection.execute(f"SELECT count(*) FROM {kind}").fetchall()[0][0]  # noqa: S608
        first = connection.sql(f"SELECT * FROM {kind} ORDER BY ALL LIMIT {FIRST}").to_arrow_table()  # noqa: S608
        found["first"][kind] = first.to_pylist()
    return {**_sizes(connection), **found}


def _deliveries(
    tables: Tables, problem: Problem, table: Table, before: TableVersion, after: TableVersion
) -> dict[str, Any]:
    """The deliveries that only one side accepted."""
    commits = tables.commits(after.name)
    sides = [_accepted([commit for number, commit in commits if number <= v.version]) for v in (before, after)]
    known = {d.number: d for d in read_deliveries(tables, problem.name, table.name)[0]}
    found: dict[str, Any] = {}
    for kind, numbers in (("added", sides[1] - sides[0]), ("removed", sides[0] - sides[1])):
        listed = [known[number] for number in sorted(numbers) if number in known]
        found[kind] = {"count": len(listed), "first": [
            {"number": d.number, "file": d.place, "rows": d.rows, "sha256": d.sha256} for d in listed[:FIRST]
        ]}  # fmt: skip
    return found


def _quarantine(tables: Tables, problem: Problem, table: Table, version: TableVersion) -> dict[str, Any]:
    """Count the rows that are quarantined in a version, by the expectations that they fail."""
    commits = [
        c | {"version": n} for n, c in tables.commits(version.name) if n <= version.version and c.get("deliveries")
    ]
    bad = quarantine_of(tables, problem.name, table.name, commits[-1]) if commits else None
    texts = tables.read(bad, [REASONS])[REASONS].to_pylist() if bad is not None else []
    reasons = Counter(f"{one['column']}: {one['expectation']}" for text in texts for one in json.loads(text))
    return {"rows": len(texts), "reasons": dict(reasons.most_common())}


def _accepted(commits: list[dict[str, Any]]) -> set[int]:
    """The numbers of the deliveries accepted up to the last of these commits."""
    numbers: set[int] = set()
    for commit in commits:
        if commit.get("rewritten"):
            numbers = set()
        numbers |= {one["number"] for one in commit.get("deliveries", ())}
    return numbers
