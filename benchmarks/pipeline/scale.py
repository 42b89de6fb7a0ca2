"""Time and peak memory of the steps at 1, 3 and 10 times the rows, and their growth.

Every table with a time is copied; each copy is later by whole weeks. If its key has no time, integer keys are shifted
too. Tables without time are not copied: more flights do not need more planes.
"""

import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Measurement, Row, growth, measure
from benchmarks.home import ensure_steps
from truecourse.data.arrow_types import UTC_TIME
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Integer, Table, Time
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, raw_table

STEPS = {"validate": "validation", "views": "feature views", "frame": "training frame"}


def rows(quick: bool) -> list[Row]:
    problem, times = ensure_steps("materialize"), (1, 2) if quick else (1, 3, 10)
    runs: dict[str, list[Measurement]] = {name: [] for name in STEPS}
    sizes: list[int] = []
    for copies in times:
        place = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
        try:
            measured = measure(
                "benchmarks.pipeline.scale:replicate", problem=problem.name, place=str(place), times=copies
            )
            sizes.append(measured.result)
            for name in STEPS:
                runs[name].append(measure(f"benchmarks.pipeline.scale:{name}", home=place, problem=problem.name))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return [row for name, what in STEPS.items() for row in _rows(what, sizes, runs[name])]


def _rows(what: str, sizes: list[int], runs: list[Measurement]) -> list[Row]:
    first = runs[0]
    measured = []
    for size, run in zip(sizes, runs, strict=True):
        measured.append(Row(what=f"{what}, {size:,} rows: CPU time", value=run.cpu, unit="CPU s", reference=first.cpu,
                        reference_is=f"{sizes[0]:,} rows"))  # fmt: skip
        measured.append(Row(what=f"{what}, {size:,} rows: peak memory", value=run.peak_bytes / 1e9, unit="GB",
                        reference=first.peak_bytes / 1e9, reference_is=f"{sizes[0]:,} rows"))  # fmt: skip
    time = growth(sizes, [run.cpu for run in runs])
    memory = growth(sizes, [run.peak_bytes for run in runs])
    measured.append(Row(what=f"{what}: growth exponent of CPU time", value=time, unit="", limit=1.15))
    measured.append(Row(what=f"{what}: growth exponent of peak memory", value=memory, unit="", limit=1.0))
    return measured


def replicate(problem: str, place: str, times: int) -> Callable[[], int]:
    """Write `times` copies of the raw tables to another home; returns the number of rows."""
    spec, tables = load_problem(problem), Tables()
    other = Tables(get_settings().model_copy(update={"home": Path(place), "storage": ""}))

    def run() -> int:
        return sum(_replicate(spec, table, tables, other, times) for table in spec.tables)

    return run


def _replicate(problem: Problem, table: Table, tables: Tables, other: Tables, times: int) -> int:
    name = raw_table(problem.name, table.name)
    version = tables.version(name)
    assert version is not None
    rows, (_, commit) = tables.read(version), tables.commits(name)[-1]
    parts = [rows] if table.time is None else [shift_copy(table, rows, copy) for copy in range(times)]
    reader = pa.RecordBatchReader.from_batches(rows.schema, (b for part in parts for b in part.to_batches()))
    total = len(rows) * len(parts)
    delivery = commit["deliveries"][0]
    commit = commit | {"rows": total, "deliveries": [delivery | {"rows": total}]}
    written: TableVersion = other.append(name, reader, commit)
    return total if written else 0


def shift_copy(table: Table, rows: pa.Table, copy: int) -> pa.Table:
    """Copy number `copy` of a table: later by `copy` times its span in whole weeks, with new keys and row numbers."""
    assert table.time is not None
    by = pa.scalar(span(rows[table.time]) * copy, pa.duration("us"))
    timed = any(isinstance(table.columns[key], Time) for key in table.key)
    numbers = {"_tc_row"} | {k for k in table.key if not timed and isinstance(table.columns[k], Integer)}
    for position, field in enumerate(rows.schema):
        values = rows[field.name]
        if isinstance(table.columns.get(field.name), Time):
            values = pc.add(values.cast(UTC_TIME), by).cast(field.type)
        elif field.name in numbers:
            values = pc.add(values, copy * (pc.max(values).as_py() + 1))
        rows = rows.set_column(position, field, values)
    return rows


def span(times: pa.ChunkedArray) -> timedelta:
    """The time from the first to the last of these times, in whole weeks, rounded up."""
    ends = pc.min_max(times).as_py()
    return timedelta(days=((ends["max"] - ends["min"]).days // 7 + 1) * 7)


def _step(problem: str, name: str) -> Callable[[], None]:
    from tasks.planning import stages

    spec = load_problem(problem)
    run: Callable[[Any], None] = getattr(stages, name)
    return lambda: run(spec)


def validate(problem: str) -> Callable[[], None]:
    return _step(problem, "validate")


def views(problem: str) -> Callable[[], None]:
    return _step(problem, "compute_views")


def frame(problem: str) -> Callable[[], int]:
    """Build the frame of every decision with its label, request fields and features."""
    from tasks.features.decision_frame import decision_frame, feature_versions
    from truecourse.data.sql import clean_versions

    spec, tables = load_problem(problem), Tables()
    clean = clean_versions(spec, tables)
    return lambda: len(decision_frame(spec, tables, clean, feature_versions(spec, tables, clean)))
