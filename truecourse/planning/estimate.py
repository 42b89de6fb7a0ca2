"""The plan of a workload: the cost of every stage, the profile that holds it, and which limit is reached first."""

import math
from collections.abc import Callable

import psutil
from pydantic import BaseModel, ConfigDict, Field

from truecourse.planning.curves import STAGES, Calibration, Cost
from truecourse.planning.workload import Workload
from truecourse.settings import get_settings

GB = 1e9
PROFILES = ("local", "servers")
MOST_TIMES = 1e9
"""The largest growth for which a limit is looked for."""


class Prices(BaseModel):
    """Declared prices, in one currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_hour: float = Field(0.05, ge=0, allow_inf_nan=False)
    storage_gb_month: float = Field(0.023, ge=0, allow_inf_nan=False)


class Machine(BaseModel):
    """What one machine has: memory and free disk in bytes, and the hours that a stage may use of one core."""

    model_config = ConfigDict(frozen=True)

    memory: float = Field(gt=0)
    disk: float = Field(gt=0)
    hours: float = Field(24, gt=0)


class StagePlan(BaseModel):
    """The expected cost of a stage. `money`: of its CPU time. `extrapolated`: by how much beyond the measured sizes."""

    stage: str
    units: float
    cpu_seconds: float
    peak_memory_bytes: float
    storage_bytes: float
    money: float
    extrapolated: float


class Limit(BaseModel):
    """A limit of a profile. `times`: the growth of the tables at which it is reached; None: not up to MOST_TIMES."""

    what: str
    stage: str | None
    profiles: tuple[str, ...]
    times: float | None


class Plan(BaseModel):
    """What one run of all stages costs. `profile`: the smallest that holds it; None: none does."""

    stages: list[StagePlan]
    cpu_seconds: float
    peak_memory_bytes: float
    storage_bytes: float
    money_per_run: float
    money_per_month: float
    profile: str | None
    limits: list[Limit]


def this_machine() -> Machine:
    """Memory and free disk of this machine, at the home."""
    folder = get_settings().home
    while not folder.exists():
        folder = folder.parent
    return Machine(memory=psutil.virtual_memory().total, disk=psutil.disk_usage(str(folder)).free)


def make_plan(workload: Workload, calibration: Calibration, machine: Machine, prices: Prices) -> Plan:
    """Compute the plan of one run of every stage."""
    costs = _costs(workload, calibration)
    stages = [_stage(name, workload.units(name), costs[name], calibration, prices) for name in STAGES]
    limits = sorted(_limits(workload, calibration, machine), key=lambda one: one.times or math.inf)
    reached = [one for one in limits if one.times is not None and one.times <= 1]
    holding = [name for name in PROFILES if not any(name in one.profiles for one in reached)]
    storage = sum(one.storage_bytes for one in stages)
    return Plan(
        stages=stages,
        cpu_seconds=sum(one.cpu_seconds for one in stages),
        peak_memory_bytes=max(one.peak_memory_bytes for one in stages),
        storage_bytes=storage,
        money_per_run=sum(one.money for one in stages),
        money_per_month=storage / GB * prices.storage_gb_month,
        profile=holding[0] if holding else None,
        limits=limits,
    )


def _costs(workload: Workload, calibration: Calibration) -> dict[str, Cost]:
    return {name: calibration.cost(name, workload.units(name)) for name in STAGES}


def _stage(name: str, units: float, cost: Cost, calibration: Calibration, prices: Prices) -> StagePlan:
    largest = calibration.largest[name]
    return StagePlan(
        stage=name,
        units=units,
        cpu_seconds=cost.cpu,
        peak_memory_bytes=cost.memory,
        storage_bytes=cost.storage,
        money=cost.cpu / 3600 * prices.core_hour,
        extrapolated=max(units / largest, 1.0) if largest else 1.0,
    )


def _limits(workload: Workload, calibration: Calibration, machine: Machine) -> list[Limit]:
    """Memory and time of every stage, which both profiles have, and the disk, which only `local` has."""

    def cost(stage: str, times: float) -> Cost:
        return calibration.cost(stage, workload.scaled(times).units(stage))

    found = []
    for stage in STAGES:
        memory = _times(lambda times, stage=stage: cost(stage, times).memory, machine.memory)  # type: ignore[misc]
        hours = _times(lambda times, stage=stage: cost(stage, times).cpu, machine.hours * 3600)  # type: ignore[misc]
        found.append(Limit(what="memory", stage=stage, profiles=PROFILES, times=memory))
        found.append(Limit(what="time", stage=stage, profiles=PROFILES, times=hours))
    disk = _times(
        lambda times: sum(one.storage for one in _costs(workload.scaled(times), calibration).values()), machine.disk
    )
    return [*found, Limit(what="disk", stage=None, profiles=("local",), times=disk)]


def _times(value: Callable[[float], float], limit: float) -> float | None:
    """The growth at which a value that never falls reaches a limit, by bisection to 0.1%; None beyond MOST_TIMES."""
    if value(MOST_TIMES) < limit:
        return None
    low, high = 1 / MOST_TIMES, MOST_TIMES
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if value(middle) >= limit else (middle, high)
    return high
