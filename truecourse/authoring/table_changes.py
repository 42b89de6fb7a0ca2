"""What an edit of the declared tables does to stored data: which columns change, and which views are computed again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.expectations import Suite, TalliesByRange, compile_expectations
from truecourse.data.quarantine import REASONS, quarantine_of
from truecourse.data.readers import absent_columns
from truecourse.data.sources import locate_archived, scratch
from truecourse.data.sql import ROW, SUPERSEDED
from truecourse.data.table_edits import Edit, find_edits, former_names, stored_document
from truecourse.errors import NotFound
from truecourse.features.definition_digests import feature_table
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.wording import counted, counted_of, plural

_ROWS = 100_000
_COUNTED = frozenset({"not_null", "range", "one_of", "pattern", "max_length"})
"""Rules whose effect on stored rows is counted. `in_table` and `unique` are counted by `validate`."""


@dataclass(frozen=True)
class TableChange:
    """The edits of one table since it was validated, and what each does to stored rows, in words."""

    table: str
    edits: tuple[Edit, ...]
    effects: tuple[str, ...]

    def sentences(self) -> list[str]:
        return [f"{self.table}: {line}" for line in (*(edit.sentence for edit in self.edits), *self.effects)]

    def document(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "edits": [edit.document() for edit in self.edits],
            "effects": list(self.effects),
        }


@dataclass(frozen=True)
class ChangePlan:
    """The changes of tables, and the views that are computed again or kept by the next run."""

    tables: tuple[TableChange, ...] = ()
    recomputed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        lines = [line for change in self.tables for line in change.sentences()]
        for names, what in ((self.recomputed, "recomputed"), (self.kept, "kept")):
            if names:
                verb = plural(len(names), "is")
                lines.append(f"{counted(len(names), 'view')} {verb} {what}: {', '.join(names)}")
        return lines

    def document(self) -> dict[str, Any]:
        return {
            "tables": [change.document() for change in self.tables],
            "views": {"recomputed": list(self.recomputed), "kept": list(self.kept)},
        }


def plan_changes(problem: Namespace, tables: Tables) -> ChangePlan:
    """Compare the stored tables and views with their declarations; nothing is written.

    Views are listed if a table or a view changed, and some view was computed before."""
    owned = [(owner, table) for owner in problem.namespaces for table in owner.tables]
    changes = tuple(change for owner, table in owned if (change := _table_change(owner, table, tables)))
    computed = {view.name: tables.exists(feature_table(problem, view.name)) for view in problem.views}
    recomputed = tuple(name for name, stored in computed.items() if not stored)
    kept = tuple(name for name, stored in computed.items() if stored)
    owners = {problem.name, *(owner.name for owner in problem.view_owners)}
    any_before = any(True for owner in owners for _ in tables.store.list(f"features/{owner}/"))
    if not any_before or not (changes or recomputed):
        return ChangePlan(changes)
    return ChangePlan(changes, recomputed, kept)


def _table_change(problem: Namespace, table: Table, tables: Tables) -> TableChange | None:
    _, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    if last is None or ("declared" not in last and last["shape"] == deliveries.shape_digest(table)):
        return None
    version = TableVersion(name=clean_table(problem.name, table.name), version=last["version"])
    stored = stored_document(last, tables.dataset(version).schema)
    edits = find_edits(stored, table)
    if not edits:
        return None
    names = former_names(stored["columns"], table)
    effects = [
        *_filled(problem, table, tables, version, [edit.column for edit in edits if edit.kind == "added"]),
        *_broken(table, tables, version, names, edits),
        *_returning(problem, table, tables, last, names, edits),
    ]
    return TableChange(table.name, tuple(edits), tuple(effects))


def _filled(
    problem: Namespace, table: Table, tables: Tables, version: TableVersion, added: Sequence[str]
) -> Iterator[str]:
    """Where added columns are null or have their default: in rows of deliveries whose kept bytes lack them."""
    if not added:
        return
    lacking = _lacking(problem, table, tables, added)
    for name in added:
        without = [delivery for delivery, absent in lacking if name in absent]
        if without:
            column, rows = table.columns[name], sum(delivery.rows for delivery in without)
            value = "null" if column.default is None else f"{column.default!r} (its default)"
            end = _end_of(table, tables, version, without)
            before = f", all before {end:%Y-%m-%d}" if end else ""
            where = f"{counted(rows, 'row')} of {counted_of(len(without), len(lacking), 'delivery')}"
            yield f"{name} is {value} in {where}{before}"


def _lacking(
    problem: Namespace, table: Table, tables: Tables, added: Sequence[str]
) -> list[tuple[Delivery, frozenset[str]]]:
    """The accepted deliveries with rows, each with the added columns that its kept bytes lack."""
    known, _ = deliveries.read_deliveries(tables, problem.name, table.name)
    accepted, _ = deliveries.accepted_deliveries(tables, problem.name, table.name)
    columns = {name: table.columns[name] for name in added}
    found: list[tuple[Delivery, frozenset[str]]] = []
    for delivery in known:
        if delivery.rows and delivery.number in accepted:
            with scratch() as folder:
                try:
                    tables.store.download(archive_key(problem.name, table.name, delivery.sha256), folder / "bytes")
                    absent = absent_columns(locate_archived(table, delivery.uri, folder / "bytes"), columns)
                except NotFound:  # the bytes have expired
                    absent = list(added)
            found.append((delivery, frozenset(absent)))
    return found


def _end_of(table: Table, tables: Tables, version: TableVersion, some: Sequence[Delivery]) -> datetime | None:
    """The day after the last row of some deliveries; None for a table without time."""
    if table.time is None or table.time not in tables.dataset(version).schema.names:
        return None
    rows = tables.read(version, [table.time, ROW])
    inside = [pc.and_(pc.greater_equal(rows[ROW], d.start), pc.less(rows[ROW], d.end)) for d in some]
    last = pc.max(rows.filter(reduce(pc.or_, inside))[table.time]).as_py()
    return None if last is None else last + timedelta(days=1)


def _broken(
    table: Table, tables: Tables, version: TableVersion, names: dict[str, str], edits: Sequence[Edit]
) -> Iterator[str]:
    """How many stored rows break a tightened rule. They stay, until validate --recheck."""
    retyped = {edit.column for edit in edits if edit.kind in ("widened", "retyped")}
    tightened = {edit.column for edit in edits if edit.kind == "tightened"} - retyped
    expectations = [
        e for e in compile_expectations(table) if e.column in tightened and e.name in _COUNTED and e.severity != "info"
    ]
    if not expectations:
        return
    dataset = tables.dataset(version)
    tallies, suite = TalliesByRange(expectations, [0], [1 << 62], [None]), Suite(table, expectations)
    columns = {name: pc.field(names[name]) for name in tightened} | {ROW: pc.field(ROW)}
    scanner = dataset.scanner(columns=columns, filter=pc.field(SUPERSEDED).is_null(), batch_size=_ROWS)
    total = 0
    for batch in scanner.to_batches():
        if len(batch):
            suite.check(pa.Table.from_batches([batch]), set(), tallies)
            total += len(batch)
    for expectation, tally in tallies.ranges[0].items():
        if tally.failed:
            broken = counted_of(tally.failed, total, "stored row")
            yield f"{broken} break “{expectation.rule}” of {expectation.column}; they stay, unless validate --recheck"


def _returning(
    problem: Namespace, table: Table, tables: Tables, last: dict[str, Any], names: dict[str, str], edits: Sequence[Edit]
) -> Iterator[str]:
    """How many quarantined rows are checked again, because the rule that they broke changed."""
    version = quarantine_of(tables, problem.name, table.name, last)
    changed = {names[e.column] for e in edits if e.kind in ("loosened", "widened", "retyped") and e.column in names}
    if version is None or not changed:
        return
    reasons = tables.read(version, [REASONS])[REASONS].to_pylist()
    count = sum(any(f'"column": "{name}"' in text for name in changed) for text in reasons)
    if count:
        broken = "it broke" if count == 1 else "they broke"
        yield f"{counted(count, 'quarantined row')} may return: the rule that {broken} changed"
