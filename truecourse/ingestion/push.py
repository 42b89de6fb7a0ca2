"""Push rows to a table: record them durably as a delivery of its own, and validate them at once.

Each push is a delivery whose place is `push:` and its id, with its bytes in the archive of sources. So what holds for
deliveries holds for pushed rows: validation, quarantine, corrections, late rows, lineage, forgetting and cleanup.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc

from truecourse.data import deliveries
from truecourse.data.deliveries import PUSHED, Delivery
from truecourse.data.quarantine import DELIVERY, REASONS
from truecourse.data.sources import FORMATS, locate_pushed, scratch
from truecourse.data.sql import ROW
from truecourse.data.validation_report import ValidationResult, read_result
from truecourse.errors import RequestError, RowFault, SourceError, TruecourseError
from truecourse.hashing import sha256_file
from truecourse.ingestion.ingest import Staged, append_staged, read_source
from truecourse.ingestion.validate import PATIENCE, validate_new
from truecourse.problem.namespace import FeatureArea, Namespace
from truecourse.problem.schema import Table
from truecourse.references import Reference
from truecourse.storage.area_marks import mark_area
from truecourse.storage.delta_tables import Tables, quarantine_table, raw_table
from truecourse.storage.locks import locked
from truecourse.unique_ids import PUSH_ID

LISTED = 100
"""Most faults of rows in a result."""


@dataclass(frozen=True)
class Push:
    """Rows to push. `name`: a file name, whose ending gives the format. `id`: pushes with one id count once; by default
    the SHA-256 of the bytes."""

    path: Path
    name: str
    id: str = ""


class PushResult(Reference):
    """What became of pushed rows. They are stored, with their bytes, unless `refused` says why not.

    `repeated`: the same push was recorded before. `faults`: of the first rows that were quarantined, or for which the
    push was refused; rows count from 0. `fault_count`: the number of all faults. Of a refused push nothing is inserted,
    and so all counts but `rows` are 0."""

    id: str
    table: str
    delivery: int
    sha256: str
    rows: int
    inserted: int
    corrected: int
    unchanged: int
    deleted: int
    quarantined: int
    repeated: bool = False
    refused: tuple[str, ...] = ()
    faults: tuple[RowFault, ...] = ()
    fault_count: int = 0


def push_rows(
    problem: Namespace, table: Table, tables: Tables, pushes: Sequence[Push], *, run: str = ""
) -> list[PushResult | TruecourseError]:
    """Push rows in one commit, and validate them. For each push return its result, or the error if nothing of it was
    recorded: RequestError for an id with other bytes, SourceError for rows that cannot be read.

    When this returns, recorded rows survive a loss of power. Raises SourceError for a table that rows cannot be pushed
    to. If it raises another error, push again: a push that was recorded counts once."""
    require_pushable(problem, table, tables)
    if isinstance(problem, FeatureArea):
        mark_area(tables.store, problem.name)
    with scratch() as folder:
        staged = _Staging(problem, table, tables, folder)
        ids = [staged.add(push) for push in pushes]
        if staged.new:
            with locked(tables.store, raw_table(problem.name, table.name), patience=PATIENCE):
                append_staged(problem, table, tables, staged.new, run, staged.refused)
    if any(isinstance(one, str) for one in ids):
        validate_new(problem, table, tables, datetime.now(UTC).replace(tzinfo=None), run=run)
    known, _ = deliveries.read_deliveries(tables, problem.name, table.name)
    newest = deliveries.newest_by_place(known)
    written = {item.place for item in staged.new}
    found: list[PushResult | TruecourseError] = []
    for one in ids:
        repeated = isinstance(one, str) and one not in written
        found.append(_result(problem, table, tables, newest[one], repeated) if isinstance(one, str) else one)
        written -= {one} if isinstance(one, str) else set()  # a second push of the same rows in this call
    return found


def require_pushable(problem: Namespace, table: Table, tables: Tables) -> None:
    """Raise SourceError for a table that rows cannot be pushed to: without key, with `combine="replace"`, or stored
    under another declaration."""
    where = f"{problem.name}.{table.name}"
    if not table.key:
        hint = "name the table's key: a row that is pushed and also delivered then counts once"
        raise SourceError("rows cannot be pushed to a table without a key", where=where, hint=hint)
    if table.combines != "upsert":
        what = f'rows cannot be pushed to a table with combine="{table.combines}": its sources determine all its rows'
        raise SourceError(what, where=where, hint='write combine="upsert", or deliver the rows')
    known, shape = deliveries.read_deliveries(tables, problem.name, table.name)
    if known and shape != deliveries.shape_digest(table):
        option = "area" if isinstance(problem, FeatureArea) else "problem"
        hint = f"truecourse run ingest --{option} {problem.name}; an endpoint: deploy a version of today's declaration"
        raise SourceError("the stored table has another declaration", where=where, hint=hint)


class _Staging:
    """Pushes to be appended to a table. `new`: those to append; `refused`: their places that were refused before."""

    def __init__(self, problem: Namespace, table: Table, tables: Tables, folder: Path) -> None:
        self._problem, self._table, self._tables, self._folder = problem, table, tables, folder
        known, _ = deliveries.read_deliveries(tables, problem.name, table.name)
        newest = deliveries.newest_by_place(known)
        self._newest: dict[str, tuple[str, int | None]] = {place: (d.sha256, d.number) for place, d in newest.items()}
        """By place, the SHA-256 and the number of the newest delivery; no number for one that is staged."""
        self.new: list[Staged] = []
        self.refused: set[str] = set()

    def add(self, push: Push) -> str | TruecourseError:
        """Stage a push, unless it was recorded. Return its place, or the error if it cannot be recorded."""
        try:
            return self._add(push)
        except (RequestError, SourceError) as error:
            return error

    def _add(self, push: Push) -> str:
        if push.id and not PUSH_ID.fullmatch(push.id):
            hint = "use up to 100 letters, digits, dots, dashes and underscores"
            raise RequestError(f"invalid id of a push: {push.id[:120]!r}", status=422, hint=hint)
        place = f"{PUSHED}{push.id or sha256_file(push.path)}"
        located = locate_pushed(self._table, place + _ending(push.name), push.path)
        sha256, number = self._newest.get(place, ("", None))
        if sha256 and not (number is not None and self._was_refused(number)):
            if sha256 == located.sha256:
                return place
            what, hint = f"the id {push.id} was used for other rows", "give each push an id of its own"
            raise RequestError(what, status=409, where=f"{self._problem.name}.{self._table.name}", hint=hint)
        path = self._folder / f"{len(self.new)}.arrow"
        staged, forgotten = read_source(self._problem, self._table, self._tables, located, place, path)
        deliveries.archive(self._tables.store, self._problem.name, self._table.name, located.sha256, push.path)
        forgotten.clean_archive(located)
        self.new.append(staged)
        if number is not None:
            self.refused.add(place)
        self._newest[place] = (located.sha256, None)
        return place

    def _was_refused(self, number: int) -> bool:
        result = read_result(self._tables.store, self._problem.name, self._table.name, number)
        return result is not None and bool(result.refused)


def _ending(name: str) -> str:
    """The endings of a file name that give its format. Raises SourceError for an unknown format."""
    endings = [
        ending for ending in (part.lower() for part in Path(name).suffixes) if ending in (*FORMATS, ".gz", ".zip")
    ]
    if not any(ending in FORMATS for ending in endings):
        known = ", ".join(FORMATS)
        raise SourceError(
            f"unknown file format (known: {known})", where=name, hint="give the format, or rename the file"
        )
    return "".join(endings)


def _result(problem: Namespace, table: Table, tables: Tables, delivery: Delivery, repeated: bool) -> PushResult:
    result = read_result(tables.store, problem.name, table.name, delivery.number)
    assert result is not None, f"delivery {delivery.number} was not validated"
    faults, count = _faults(problem, table, tables, result)
    counts = result.rows.model_dump(include={"inserted", "corrected", "unchanged", "deleted", "quarantined"})
    return PushResult(
        id=delivery.place.removeprefix(PUSHED),
        table=f"{problem.name}.{table.name}",
        delivery=delivery.number,
        sha256=delivery.sha256,
        rows=result.rows.rows_in,
        **(dict.fromkeys(counts, 0) if result.refused else counts),
        repeated=repeated,
        refused=tuple(_with_own_numbers(reason, delivery) for reason in result.refused),
        faults=tuple(faults[:LISTED]),
        fault_count=count,
    )


def _with_own_numbers(reason: str, delivery: Delivery) -> str:
    """A reason with row numbers of the push instead of the table's."""
    return re.sub(r"\brow (\d+):", lambda found: f"row {int(found[1]) - delivery.start}:", reason)


def _faults(problem: Namespace, table: Table, tables: Tables, result: ValidationResult) -> tuple[list[RowFault], int]:
    """The faults of the rows that were quarantined; of a refused push examples. And the number of all."""
    start, rules = result.delivery.start, {(o.column, o.name): o.rule for o in result.outcomes}
    version = tables.version(quarantine_table(problem.name, table.name)) if result.rows.quarantined else None
    if result.refused or version is None:
        failing = [outcome for outcome in result.failing if outcome.quarantines or outcome.severity == "critical"]
        shown = (
            RowFault(one.row - start, outcome.column or None, _sentence(outcome.rule, one.value))
            for outcome in failing
            for one in outcome.examples
        )
        return _in_order(shown), sum(outcome.failed for outcome in failing)
    rows = tables.read(version, [ROW, REASONS], pc.field(DELIVERY) == result.delivery.number)
    faults = _in_order(
        RowFault(row - start, one["column"] or None, _sentence(rules[one["column"], one["expectation"]], one["value"]))
        for row, reasons in zip(rows[ROW].to_pylist(), rows[REASONS].to_pylist(), strict=True)
        for one in json.loads(reasons)
    )
    return faults, len(faults)


def _sentence(rule: str, value: str | None) -> str:
    return f"{value!r} breaks “{rule}”"


def _in_order(faults: Iterable[RowFault]) -> list[RowFault]:
    return sorted(faults, key=lambda fault: (fault.row, fault.field or ""))
