"""The source rows of a batch prediction's decision: of its id, its time and its request fields.

The decision is computed again from candidate rows alone. If that gives the recorded request fields, the candidates are
proved to be sufficient.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import sql
from truecourse.data.former_columns import stored_names
from truecourse.data.sql import ROW
from truecourse.errors import TruecourseError
from truecourse.features import frame as frames
from truecourse.features.decisions import decision_columns
from truecourse.features.view_sql import tables_read
from truecourse.lineage.batch_inputs import batch_commit
from truecourse.lineage.candidate_rows import MOST_CANDIDATES, TOO_MANY, Database, HeldTables, candidate_rows
from truecourse.lineage.recorded_values import DIFFERENT, SUFFICIENT, literal, same_value
from truecourse.lineage.source_files import describe_table_rows
from truecourse.problem import Problem
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

MOST_LEFT_OUT = 10
"""Most sufficient rows of which unnecessary ones are left out."""
Record = Mapping[str, Any]
Rows = Mapping[str, pa.Table]
Versions = Mapping[str, TableVersion]


def origin_of_decision(tables: Tables, database: Database, problem: Problem, record: Record) -> list[dict[str, Any]]:
    """Return the source rows of a batch prediction's decision, in the form of feature_origins; nothing for a row of a
    scored file, and for one that was scored when the problem had other tables."""
    commit = batch_commit(tables, problem, record)
    if commit is None or commit["source"]:
        return []
    named = {one.name: one for one in map(TableVersion.model_validate, commit["tables"])}
    found = {table.name: named.get(clean_table(problem.name, table.name)) for table in problem.tables}
    versions = {name: version for name, version in found.items() if version is not None}
    if len(versions) < len(found):
        return []
    reads = tables_read(problem, problem.spine) if problem.spine else {problem.label_table.name}
    used = [table for table in problem.tables if table.name in reads]
    names = {table.name: stored_names(tables, versions[table.name], table.columns) for table in used}
    read = decision_columns(problem)
    state, detail = "candidates", DIFFERENT
    for wheres in _conditions(problem, record, used, names):
        rows: Rows = {
            t.name: candidate_rows(tables, database, versions[t.name], t, wheres[t.name], read[t.name]) for t in used
        }
        if sum(map(len, rows.values())) > MOST_CANDIDATES:
            detail = TOO_MANY
        elif _is_equal(problem, record, versions, rows):
            rows = _without_unnecessary(problem, record, versions, rows)
            state, detail = "sufficient", SUFFICIENT
            break
    described = [
        describe_table_rows(tables, problem, table, versions[table.name], rows[table.name], wheres[table.name], None)
        for table in used
    ]
    about: dict[str, Any] = {"view": "request", "sql": problem.spine, "view_version": None, "feature_table": None}
    about |= {"key": {"id": str(record["id"])}, "event_time": record["decision_time"], "recorded_at": None}
    about |= {"state": state, "detail": detail, "rows": sum(map(len, rows.values())), "changed_by": None}
    return [about | {"tables": described}]


def _conditions(
    problem: Problem, record: Record, used: list[Table], names: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, str]]:
    """SQL conditions of candidate rows by table, the narrowest first: rows with the values of the request fields in
    columns of the same name; rows whose key is the id, and all rows of tables without key; all rows."""
    by_key = {t.name: f"{sql.row_id(t)} = {literal(str(record['id']))}" if t.key else "true" for t in used}
    if not problem.spine:
        yield {table.name: f"{sql.row_id(table)} = {literal(str(record['id']))}" for table in used}
        return
    by_value = {table.name: _with_values(problem, record, names[table.name]) for table in used}
    if any(by_value.values()):
        yield {name: condition or "true" for name, condition in by_value.items()}
    yield by_key
    yield dict.fromkeys(by_key, "true")


def _with_values(problem: Problem, record: Record, stored: Mapping[str, str]) -> str:
    """SQL of the rows that have the recorded request fields; empty if no column has the name of one."""
    parts = []
    for name, value in record["values"].items():
        if name in problem.request_fields and stored.get(name) and value == value:  # NaN equals nothing
            column = sql.quote(stored[name])
            parts.append(f"{column} IS NULL" if value is None else f"{column} = {literal(value)}")
    return " AND ".join(parts)


def _is_equal(problem: Problem, record: Record, versions: Versions, rows: Rows) -> bool:
    """Whether these rows alone give the recorded decision."""
    held = HeldTables({clean_table(problem.name, name): table for name, table in rows.items()})
    try:
        found = frames.read_spine(frames.without_labels(problem), held, versions)
    except TruecourseError:
        return False
    found = found.filter(pc.field("id") == str(record["id"])).to_pylist()
    names = [name for name in problem.request_fields if name in record["values"]]
    names += ["decision_time"] if problem.has_time else []
    given = {**record["values"], "decision_time": record["decision_time"]}
    return bool(found) and all(same_value(found[0][name], given[name]) for name in names)


def _without_unnecessary(problem: Problem, record: Record, versions: Versions, rows: Rows) -> Rows:
    """Leave out each row without which the others still give the decision, if there are few."""
    if sum(map(len, rows.values())) > MOST_LEFT_OUT:
        return rows
    for name, table in rows.items():
        for number in table[ROW].to_pylist():
            fewer = {**rows, name: rows[name].filter(pc.field(ROW) != number)}
            if sum(map(len, fewer.values())) and _is_equal(problem, record, versions, fewer):
                rows = fewer
    return rows
