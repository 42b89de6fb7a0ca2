"""Quarantine tables: the invalid rows of accepted deliveries, with reasons.

A quarantine table is written before the clean table's commit that accepts the deliveries. Its commits name the version
of that commit (`clean`), so that rows which a stopped run left are recognised.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery
from truecourse.data.sql import ROW
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, quarantine_table, raw_table

DELIVERY, REASONS = "_tc_delivery", "_tc_reasons"


def quarantine_of(tables: Tables, problem: str, table: str, clean: Mapping[str, Any]) -> TableVersion | None:
    """The version of a quarantine table that belongs to a clean table's commit (with its `version` and `inputs`); None
    if no row was quarantined by then."""
    name = quarantine_table(problem, table)
    if not tables.exists(name):
        return None
    raw = max((item["version"] for item in clean.get("inputs", ())), default=0)
    versions = [
        version
        for version, commit in tables.commits(name)
        if ("clean" in commit and commit["clean"] <= clean["version"])
        or ("clean" not in commit and max((item["version"] for item in commit.get("inputs", ())), default=0) <= raw)
    ]
    return TableVersion(name=name, version=versions[-1]) if versions else None


def quarantined_rows(tables: Tables, version: TableVersion | None) -> dict[int, list[int]]:
    """The numbers of the quarantined rows of each delivery."""
    rows: dict[int, list[int]] = {}
    if version is not None:
        found = tables.read(version, [DELIVERY, ROW])
        for delivery, row in zip(found[DELIVERY].to_pylist(), found[ROW].to_pylist(), strict=True):
            rows.setdefault(delivery, []).append(row)
    return rows


def kept_deliveries(
    problem: str, table: str, tables: Tables, known: Sequence[Delivery], last: Mapping[str, Any]
) -> dict[int, frozenset[int]]:
    """The deliveries that are accepted, each with the current numbers of its quarantined rows.

    `last`: the newest clean commit with deliveries. A delivery whose number of rows changed since is left out."""
    accepted, _ = deliveries.accepted_deliveries(tables, problem, table)
    raw = max((item["version"] for item in last.get("inputs", ())), default=0)
    commits = [item for item in tables.commits(raw_table(problem, table)) if item[0] <= raw]
    before = {d.number: d for d in deliveries.parse_commits(commits)[0]}
    rows = quarantined_rows(tables, quarantine_of(tables, problem, table, last))
    return {
        d.number: frozenset(row - before[d.number].start + d.start for row in rows.get(d.number, ()))
        for d in known
        if d.number in accepted and d.number in before and before[d.number].rows == d.rows
    }
