"""The error of `truecourse plan`: planned against measured CPU time, peak memory and storage of every stage.

The settings' problem runs from its sources in a home of its own. The calibration is that of the settings' home, or the
shipped one. Storage is not compared where a stage writes less than 1 MB."""

import shutil
import tempfile
from pathlib import Path

from benchmarks.harness import Row
from tasks.planning.calibrate import measure_stage
from truecourse.planning.curves import STAGES, Cost, load_calibration
from truecourse.planning.workload import read_workload
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

LIMIT = 0.3
WRITTEN = 1e6


def rows(quick: bool) -> list[Row]:
    problem, folder = load_problem(), Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
    stages = STAGES[:2] if quick else STAGES
    settings = get_settings()
    try:
        costs = {name: measure_stage(problem.name, name, folder, settings.problems) for name in stages}
        own = settings.model_copy(update={"home": folder, "storage": ""})
        workload = read_workload(problem, {}, Tables(own))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    calibration, _ = load_calibration()
    planned = {name: calibration.cost(name, workload.units(name)) for name in stages}
    total = [Cost(cpu=sum(c.cpu for c in each), memory=max(c.memory for c in each),
                  storage=sum(c.storage for c in each)) for each in (planned.values(), costs.values())]  # fmt: skip
    compared = [row for name in stages for row in _rows(name, planned[name], costs[name])]
    return [*compared, *_rows("all stages", *total)]


def _rows(name: str, planned: Cost, measured: Cost) -> list[Row]:
    found = [_error(f"{name}: CPU time", planned.cpu, measured.cpu)]
    found.append(_error(f"{name}: peak memory", planned.memory, measured.memory))
    if measured.storage >= WRITTEN:
        found.append(_error(f"{name}: storage", planned.storage, measured.storage))
    return found


def _error(what: str, planned: float, measured: float) -> Row:
    """The absolute error, as a share of the measured value."""
    error = abs(planned - measured) / measured
    return Row(what=f"{what}: error of {planned:,.4g} against {measured:,.4g}", value=error, unit="", limit=LIMIT)
