"""Measured costs of the stages by the number of values, and the lines between them."""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from truecourse.errors import SettingsError
from truecourse.settings import get_settings
from truecourse.storage.fsync import make_folder

STAGES = ("ingest", "validate", "materialize", "train", "register", "package", "score", "monitor")
_SHIPPED = Path(__file__).with_name("shipped_calibration.json")


class Cost(BaseModel):
    """What one run of a stage costs: CPU seconds of all its processes, peak memory and written storage in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: float
    memory: float
    storage: float


class Point(BaseModel):
    """One measured run of a stage on `units` values (Workload.units)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: float
    cost: Cost


class Calibration(BaseModel):
    """Measured points of every stage. `machine`: cores, memory and software where they were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: str
    machine: Mapping[str, str | int | float | None]
    points: Mapping[str, tuple[Point, ...]]

    def cost(self, stage: str, units: float) -> Cost:
        """The expected cost of a stage on `units` values."""
        points = sorted(self.points[stage], key=lambda point: point.units)
        sizes = [point.units for point in points]
        return Cost(
            **{name: value_at(units, sizes, [getattr(one.cost, name) for one in points]) for name in Cost.model_fields}
        )

    @property
    def largest(self) -> dict[str, float]:
        """The largest measured size of each stage: beyond it, costs are extrapolated."""
        return {stage: max(point.units for point in points) for stage, points in self.points.items()}


def value_at(units: float, sizes: Sequence[float], values: Sequence[float]) -> float:
    """Interpolate measured values linearly at `units`; beyond the largest size, the last line goes on.

    `sizes` ascend. The result never falls with `units`, and below the smallest size is at least 0."""
    rising = list(accumulate(values, max))
    if sizes[0] == sizes[-1]:
        return rising[-1]
    right = min(max(bisect_left(sizes, units), 1), len(sizes) - 1)
    left = right - 1
    slope = (rising[right] - rising[left]) / (sizes[right] - sizes[left])
    return max(rising[left] + slope * (units - sizes[left]), 0.0)


def calibration_file() -> Path:
    return get_settings().home / "calibration.json"


def load_calibration() -> tuple[Calibration, bool]:
    """The calibration of this machine, or else the shipped one; whether it is this machine's.

    Raises SettingsError if the file is no calibration."""
    file = calibration_file()
    if not file.is_file():
        return shipped_calibration(), False
    try:
        found = Calibration.model_validate_json(file.read_bytes())
        if set(found.points) != set(STAGES) or not all(found.points.values()):
            raise ValueError("the stages differ")
    except (ValidationError, ValueError):
        hint = "measure again with truecourse plan --calibrate, or remove the file for the shipped calibration"
        raise SettingsError("the file is no calibration of this release", where=str(file), hint=hint) from None
    return found, True


def save_calibration(calibration: Calibration) -> Path:
    """Write the calibration of this machine; its file."""
    file = calibration_file()
    make_folder(file.parent)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n")
    draft.replace(file)
    return file


@cache
def shipped_calibration() -> Calibration:
    return Calibration.model_validate_json(_SHIPPED.read_bytes())
