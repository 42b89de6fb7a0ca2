"""Rows of the clean tables by their source: the deliveries of a file, the versions of a row, and their states."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from truecourse.data import sql
from truecourse.data.deliveries import Delivery, accepted_deliveries, archive_key, read_deliveries
from truecourse.data.sql import RECORDED, ROW, SUPERSEDED
from truecourse.data.validation_report import read_result
from truecourse.errors import NotFound, SourceError
from truecourse.hashing import sha256_file
from truecourse.problem import Problem
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables, clean_table, quarantine_table, raw_table
from truecourse.wording import nearest

FIRST = 5
"""How many items of a list are shown; the others are counted."""
_DIGEST = r"[0-9a-f]{8,64}"
_REPLACED = "_tc_replaced"


class TablesWithout(Tables):
    """Tables of which one lacks some rows, as if these had never been delivered.

    An earlier version of a row that a removed version replaced is replaced by the next version instead, or current. In
    a table without key, rows that a newer content removed stay removed."""

    def __init__(self, table: Table, name: str, removed: Any) -> None:
        super().__init__()
        self._table, self._name, self._removed = table, name, removed
        self._known: dict[TableVersion, pa.Table] = {}

    def dataset(self, reference: TableVersion, where: Sequence[Limit] = ()) -> ds.Dataset:
        found = super().dataset(reference, where)
        if reference.name != self._name:
            return found
        if reference not in self._known:
            whole = super().dataset(reference)
            self._known[reference] = _with_superseded(whole, self._superseded_without(whole))
        replaced = self._known[reference]
        if not len(replaced):
            return found.filter(~self._removed)
        schema = found.schema.append(pa.field(_REPLACED, pa.bool_()))
        rows = ds.dataset(replaced.append_column(_REPLACED, pa.array([True] * len(replaced))))
        both = ds.UnionDataset(schema, [found.replace_schema(schema), rows])
        first = pc.field(_REPLACED).is_valid() | ~pc.field(ROW).isin(replaced[ROW].combine_chunks())
        return both.filter(~self._removed & first)

    def _superseded_without(self, dataset: ds.Dataset) -> pa.Table:
        """Return the row numbers of versions that a removed version replaced, and when they are replaced without it."""
        keys = ", ".join(map(sql.quote, self._table.key))
        if not keys:
            return pa.table({ROW: pa.array([], pa.int64())})
        with sql.connect() as connection:
            connection.register("rows", dataset.filter(self._removed))
            connection.execute(f"CREATE TEMP TABLE removed AS SELECT {keys}, {ROW} FROM rows")  # noqa: S608
            connection.register("rows", dataset)
            versions = (
                f"SELECT rows.*, removed.{ROW} IS NOT NULL AS gone FROM "  # noqa: S608
                f"(SELECT {keys}, {ROW}, {SUPERSEDED} FROM rows SEMI JOIN removed USING ({keys})) AS rows "
                f"LEFT JOIN removed USING ({ROW})"
            )
            numbered = f"count(*) FILTER (NOT gone) OVER (PARTITION BY {keys} ORDER BY {ROW}) AS run"
            runs = f"SELECT *, {numbered} FROM ({versions})"  # noqa: S608
            query = (
                f"SELECT min({ROW}) AS {ROW}, arg_max_null({SUPERSEDED}, {ROW}) AS {SUPERSEDED} FROM ({runs}) "  # noqa: S608
                f"WHERE run > 0 GROUP BY {keys}, run HAVING count(*) > 1"
            )
            return connection.sql(query).to_arrow_table()


def _with_superseded(dataset: ds.Dataset, moments: pa.Table) -> pa.Table:
    """Read the rows of these numbers, with the other time at which they were superseded."""
    rows = dataset.to_table(filter=pc.field(ROW).isin(moments[ROW].combine_chunks()))
    if not len(moments):
        return rows
    places = pc.index_in(rows[ROW], moments[ROW].combine_chunks())
    kind = rows.schema.field(SUPERSEDED).type
    other = moments[SUPERSEDED].cast(kind).take(places)
    return rows.set_column(rows.column_names.index(SUPERSEDED), SUPERSEDED, other)


@dataclass(frozen=True)
class Selection:
    """Some rows of a table, in all its versions. `chosen`: an expression on the row number `_tc_row`."""

    problem: Problem
    owner: Namespace
    """The problem, or the area that the table belongs to."""
    table: Table
    chosen: Any

    @property
    def clean(self) -> str:
        return clean_table(self.owner.name, self.table.name)

    @property
    def label(self) -> str:
        return sql.table_label(self.problem, self.owner, self.table)

    def without(self) -> TablesWithout:
        """The tables as if these rows had never been delivered."""
        return TablesWithout(self.table, self.clean, self.chosen)

    def is_in(self, tables: Tables, version: TableVersion | None) -> bool:
        """Whether a version of the clean table holds any of the rows."""
        return version is not None and bool(tables.dataset(version).count_rows(filter=self.chosen))


def select_table(problem: Problem, name: str) -> tuple[Namespace, Table]:
    """Return a table of the problem, or as `area.table` one of an area that it uses, with the namespace that it belongs
    to. Raises NotFound with similar names."""
    known = sql.labelled_tables(problem)
    if name not in known:
        raise NotFound(f"no table {name!r}", where=f"problem {problem.name}", hint=nearest(name, known))
    return known[name]


def find_deliveries(tables: Tables, problem: Problem, file: str) -> list[tuple[Namespace, Table, Delivery]]:
    """Find the deliveries of a file, given by path, place, URI, key of its stored bytes, or SHA-256 (8 digits or more).

    A path that was never delivered is looked up by the digest of its bytes. Raises SourceError if there is none."""
    known = [
        (owner, table, d)
        for owner in problem.namespaces
        for table in owner.tables
        for d in read_deliveries(tables, owner.name, table.name)[0]
    ]
    found = [(owner, table, d) for owner, table, d in known if _is_named(owner, table, d, file)]
    if not found and Path(file).is_file():
        digest = sha256_file(Path(file))
        found = [(owner, table, d) for owner, table, d in known if d.sha256 == digest]
    if not found:
        places = list(dict.fromkeys(d.place for *_, d in known))
        what = "no delivery has this file" if known else "nothing was delivered yet"
        hint = nearest(file, places) if known else f"truecourse run ingest --problem {problem.name}"
        raise SourceError(what, where=file, hint=hint)
    return found


def _is_named(problem: Namespace, table: Table, delivery: Delivery, file: str) -> bool:
    key = archive_key(problem.name, table.name, delivery.sha256)
    if re.fullmatch(_DIGEST, file):
        return delivery.sha256.startswith(file)
    if file in (key, delivery.uri, delivery.place) or delivery.uri == f"object:{file}":
        return True
    path = Path(os.path.abspath(file))  # noqa: PTH100 (a symbolic link keeps its own place)
    return path.as_posix() == delivery.uri or delivery.place.endswith(f"/{file}")


def select_deliveries(
    problem: Problem, owner: Namespace, table: Table, known: Sequence[Delivery], chosen: Sequence[Delivery]
) -> Selection:
    """Select the rows of deliveries. The rows of a copy are those of the original."""
    held = [known[d.copy_of] if d.copy_of is not None else d for d in chosen]
    ranges = [(pc.field(ROW) >= d.start) & (pc.field(ROW) < d.end) for d in held if d.rows]
    return Selection(problem, owner, table, reduce(or_, ranges) if ranges else pc.field(ROW) < 0)


def describe_delivery(tables: Tables, problem: Namespace, table: Table, delivery: Delivery) -> dict[str, Any]:
    """Describe a delivery with its state: accepted, refused (with reasons) or not validated."""
    accepted, _ = accepted_deliveries(tables, problem.name, table.name)
    key = archive_key(problem.name, table.name, delivery.sha256)
    record = accepted.get(delivery.number)
    result = read_result(tables.store, problem.name, table.name, delivery.number)
    reasons = [delivery.fault] if delivery.fault else list(result.refused) if result else []
    state = "accepted" if record is not None else "refused" if reasons else "not validated"
    return {
        "table": table.name,
        **delivery.model_dump(include={"number", "uri", "place", "sha256", "bytes", "rows", "at", "copy_of"}),
        "archived": key if tables.store.exists(key) else None,
        "state": state,
        "refused": reasons if state == "refused" else [],
        "counts": record["rows"] if record is not None else None,
    }


def select_row(tables: Tables, problem: Problem, owner: Namespace, table: Table, key: str) -> Selection:
    """Select every version of a row, by its key (several columns: joined by |) or, without key, its `_tc_row`.

    Raises NotFound if no delivery has it."""
    raw = tables.version(raw_table(owner.name, table.name))
    numbers: list[int] = []
    if raw is not None:
        with sql.connect() as connection:
            connection.register("raw", tables.dataset(raw))
            query = f"SELECT {ROW} FROM raw WHERE {sql.row_id(table)} = ? ORDER BY {ROW}"  # noqa: S608
            numbers = [number for (number,) in connection.execute(query, [key]).fetchall()]
    if not numbers:
        by = f"the key of {table.name} is {', '.join(table.key)}" if table.key else "rows without a key have numbers"
        hint = by + (", joined by |" if len(table.key) > 1 else "")
        raise NotFound(f"no delivery has the row {key!r}", where=f"{owner.name}.{table.name}", hint=hint)
    return Selection(problem, owner, table, pc.field(ROW).isin(numbers))


def describe_rows(tables: Tables, selection: Selection) -> dict[str, Any]:
    """Count the selected rows by state, and show the first of each.

    `current`, `superseded`: in the clean table. `quarantined`: with the reasons. `not stored`: in neither, because they
    equal a stored row, another row of the delivery has their key, or the delivery was refused or not validated."""
    problem, table = selection.owner, selection.table
    raw = tables.version(raw_table(problem.name, table.name))
    clean, bad = tables.version(selection.clean), tables.version(quarantine_table(problem.name, table.name))
    delivered = tables.dataset(raw).count_rows(filter=selection.chosen) if raw else 0
    now = selection.chosen & pc.field(SUPERSEDED).is_null()
    parts = {"current": _count(tables, clean, now), "superseded": _count(tables, clean, selection.chosen & ~now)}
    quarantined = tables.read(bad, filter=selection.chosen).sort_by(ROW) if bad else None
    parts["quarantined"] = len(quarantined) if quarantined is not None else 0
    parts["not stored"] = max(0, delivered - sum(parts.values()))
    known, _ = read_deliveries(tables, problem.name, table.name)
    shown = _first(tables, clean, selection.chosen) + (quarantined.slice(0, FIRST).to_pylist() if quarantined else [])
    return {
        "table": selection.label,
        "version": str(clean) if clean else None,
        "delivered": delivered,
        **parts,
        "reasons": _reasons(quarantined),
        "first": [describe_row(problem, table, known, row) for row in shown],
    }


def _count(tables: Tables, version: TableVersion | None, condition: Any) -> int:
    return tables.dataset(version).count_rows(filter=condition) if version is not None else 0


def _first(tables: Tables, version: TableVersion | None, condition: Any) -> list[dict[str, Any]]:
    if version is None:
        return []
    rows: list[dict[str, Any]] = tables.dataset(version).scanner(filter=condition).head(FIRST).to_pylist()
    return rows


def _reasons(quarantined: pa.Table | None) -> list[dict[str, Any]]:
    """Count the quarantined rows by the column and the expectation that they fail, the most frequent first."""
    if quarantined is None:
        return []
    texts = quarantined["_tc_reasons"].to_pylist()
    found = Counter((one["column"], one["expectation"]) for text in texts for one in json.loads(text))
    return [{"column": column, "expectation": name, "rows": n} for (column, name), n in found.most_common()]


def describe_row(problem: Namespace, table: Table, known: Sequence[Delivery], row: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a row of a clean or quarantine table: its values, its state, and its place in a delivered file.

    `line`: its number in the file from 1, without headers."""
    number = row[ROW]
    delivery = next((d for d in known if d.start <= number < d.end), None)
    reasons = json.loads(row["_tc_reasons"]) if row.get("_tc_reasons") else []
    state = "quarantined" if reasons else "superseded" if row.get(SUPERSEDED) is not None else "current"
    return {
        "row": number,
        "state": state,
        "values": {name: row.get(name) for name in table.columns},
        "reasons": reasons,
        "recorded_at": row.get(RECORDED),
        "superseded_at": row.get(SUPERSEDED),
        "file": delivery.place if delivery else None,
        "delivery": delivery.number if delivery else None,
        "line": number - delivery.start + 1 if delivery else None,
        "sha256": delivery.sha256 if delivery else None,
        "archived": archive_key(problem.name, table.name, delivery.sha256) if delivery else None,
    }
