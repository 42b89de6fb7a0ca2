"""Measure every stage on generated problems of several sizes, for `truecourse plan --calibrate`."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.planning.calibration_problem import NAME, write_problem
from tasks.planning.measurement import measure
from truecourse.planning.curves import STAGES, Calibration, Cost, Point
from truecourse.planning.workload import declared_workload
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings
from truecourse.wording import counted

SIZES = (10_000, 100_000, 1_000_000)
"""Rows of the generated problems."""


def calibrate(report: Callable[[str], None], sizes: Sequence[int] = SIZES) -> Calibration:
    """Measure every stage at each size, in homes that are removed afterwards. `report` receives what is measured."""
    points: dict[str, list[Point]] = {stage: [] for stage in STAGES}
    parent = get_settings().home / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    for rows in sizes:
        folder = Path(tempfile.mkdtemp(prefix="calibration-", dir=parent))
        try:
            write_problem(folder / "problems", rows)
            workload = declared_workload(load_problem(NAME, folder / "problems"), {"orders": rows})
            for stage in STAGES:
                report(f"{stage}, {counted(rows, 'row')}")
                cost = measure_stage(NAME, stage, folder / "home", folder / "problems")
                points[stage].append(Point(units=workload.units(stage), cost=cost))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Calibration(measured=datetime.now(UTC).isoformat(timespec="seconds"), machine=_machine(), points=points)


def measure_stage(problem: str, stage: str, home: Path, problems: Path) -> Cost:
    """Run one stage in a process of its own, with all its data in `home`."""
    before = _stored(home)
    run = measure(
        "tasks.planning.stages:run_stage", home=home, problems=problems, alone=True, problem=problem, name=stage
    )
    return Cost(cpu=run.cpu, memory=run.peak_bytes, storage=max(_stored(home) - before, 0))


def _stored(home: Path) -> int:
    """Bytes of the storage root of a home."""
    return sum(path.stat().st_size for path in (home / "storage").rglob("*") if path.is_file())


def _machine() -> dict[str, str | int | float | None]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "python": platform.python_version(),
        "system": platform.system(),
    }  # fmt: skip
