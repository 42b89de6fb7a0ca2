"""Time and peak memory of every step of the lifecycle at 1, 3 and 10 times the rows, and their growth.

Every table with a time is copied as in `scale`, written as CSV, and ingested by a copy of the problem. Dates of its
split move with the copies, so training, validation and test rows grow alike. Validation rows are copies of training
rows, so early stopping would never stop: the number of rounds and the form of the model are the same for each size.
Each step runs in its own process.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from benchmarks.harness import Measurement, Row, growth, measure
from benchmarks.pipeline.scale import shift_copy, span
from tasks.planning.stages import STAGES
from truecourse.errors import SettingsError
from truecourse.problem import Problem, TimeSplit, XGBoost
from truecourse.problem.definition import midnight
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Table, Time
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, raw_table

SIZES = (1, 3, 10)
EXPONENT = 1.05
"""Largest growth exponent of CPU time, of each step and of the whole."""
MEMORY = 8.0
"""Largest peak memory of any process, in GB."""
ROUNDS = 200
"""Boosting rounds at each size."""
_HERE = "benchmarks.pipeline.lifecycle"
_SCALED = """

from dataclasses import replace as _replace
from truecourse.problem import Files as _Files

PROBLEM = _replace(
    PROBLEM,
    tables=[_replace(table, source=_Files(f"{files}/{{table.name}}.csv")) for table in PROBLEM.tables],
    split=_replace(PROBLEM.split, train_until={train_until!r}, validate_until={validate_until!r}),
    model=_replace(PROBLEM.model, rounds={rounds}, early_stopping_rounds={rounds}, linear=True),
)
"""


def rows(quick: bool, times: Sequence[int] = ()) -> list[Row]:
    problem = load_problem()
    if not isinstance(problem.split, TimeSplit) or not isinstance(problem.model, XGBoost):
        hint = "name another with TRUECOURSE_PROBLEM: rows are copied to later times"
        raise SettingsError(f"problem {problem.name} has no TimeSplit, or no XGBoost", hint=hint)
    runs: dict[str, list[Measurement]] = {name: [] for name in STAGES}
    sizes: list[int] = []
    for copies in times or ((1, 2) if quick else SIZES):
        place = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
        try:
            written = measure(f"{_HERE}:write_copies", home=place, problem=problem.name, place=str(place), times=copies)
            sizes.append(written.result)
            for name in STAGES:
                scaled: dict[str, Any] = {"home": place / "home", "problems": place / "problems"}
                runs[name].append(measure(f"{_HERE}:step", **scaled, problem=problem.name, name=name))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return list(figures(sizes, runs))


def figures(sizes: Sequence[int], runs: dict[str, list[Measurement]]) -> Iterator[Row]:
    """CPU time and peak memory of each step and of the whole, by size, and their growth."""
    by_size = list(zip(*runs.values(), strict=True))
    whole = [(sum(run.cpu for run in steps), max(run.peak_bytes for run in steps)) for steps in by_size]
    stages = {name: [(run.cpu, run.peak_bytes) for run in steps] for name, steps in runs.items()} | {"all steps": whole}
    for name, measured in stages.items():
        first = measured[0][0]
        for size, (cpu, peak) in zip(sizes, measured, strict=True):
            yield Row(what=f"{name}, {size:,} rows: CPU time", value=cpu, unit="CPU s", reference=first,
                      reference_is=f"{sizes[0]:,} rows")  # fmt: skip
            yield Row(what=f"{name}, {size:,} rows: peak memory", value=peak / 1e9, unit="GB", limit=MEMORY)
        if len(sizes) > 1:
            exponent = growth(sizes, [cpu for cpu, _ in measured])
            yield Row(what=f"{name}: growth exponent of CPU time", value=exponent, unit="", limit=EXPONENT)


def write_copies(problem: str, place: str, times: int) -> Callable[[], int]:
    """Write `times` copies of the problem's tables, and a problem that reads them; returns the number of rows."""
    from tasks.planning.stages import ingest

    spec, folder = load_problem(problem), Path(place)
    ingest(spec)
    (folder / "files").mkdir(parents=True)

    def run() -> int:
        _write_problem(spec, folder, times)
        return sum(_write_table(spec, table, folder / "files", times) for table in spec.tables)

    return run


def _write_problem(problem: Problem, folder: Path, times: int) -> None:
    """Copy the problem's folder, with the sources and the dates of the split of `times` copies."""
    assert isinstance(problem.split, TimeSplit)
    copied = folder / "problems" / problem.name
    shutil.copytree(get_settings().problems / problem.name, copied, ignore=shutil.ignore_patterns("__pycache__"))
    timed = next(table for table in problem.tables if table.time is not None)
    times_read = Tables().read(_version(problem, timed), columns=[str(timed.time)])[timed.time]
    first, by = pc.min(times_read).as_py(), span(times_read)
    total = by * (times - 1)
    ends = {}
    for name in ("train_until", "validate_until"):
        end = midnight(getattr(problem.split, name))
        share = (end - first.replace(tzinfo=None)) / by
        ends[name] = str((end + timedelta(days=round(total.days * share))).date())
    with (copied / "problem.py").open("a") as file:
        file.write(_SCALED.format(files=folder / "files", rounds=ROUNDS, **ends))


def _version(problem: Problem, table: Table) -> Any:
    version = Tables().version(raw_table(problem.name, table.name))
    assert version is not None
    return version


def _write_table(problem: Problem, table: Table, folder: Path, times: int) -> int:
    rows = Tables().read(_version(problem, table))
    copies = times if table.time is not None else 1
    names = [name for name in rows.column_names if not name.startswith("_tc_")]
    with (folder / f"{table.name}.csv").open("wb") as file:
        for copy in range(copies):
            part = shift_copy(table, rows, copy) if copy else rows
            text = _as_text(table, part.select(names))
            csv.write_csv(text, file, csv.WriteOptions(include_header=copy == 0))
    return len(rows) * copies


def _as_text(table: Table, rows: pa.Table) -> pa.Table:
    for position, name in enumerate(rows.column_names):
        if isinstance(table.columns.get(name), Time):
            rows = rows.set_column(position, name, pc.strftime(rows[name], "%Y-%m-%dT%H:%M:%SZ"))
    return rows


def step(problem: str, name: str) -> Callable[[], None]:
    spec = load_problem(problem)

    def run() -> None:
        STAGES[name](spec)

    return run
