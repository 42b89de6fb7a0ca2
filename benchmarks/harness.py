"""Measured values with their limits, and the report of a benchmark."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from tasks.planning.measurement import Measurement as Measurement
from tasks.planning.measurement import cpu_seconds as cpu_seconds
from tasks.planning.measurement import measure as measure
from truecourse.settings import get_settings


class Row(BaseModel):
    """A measured value and whether it keeps its limit.

    `limit` applies to `ratio`, which is `value` over `reference`, or the inverse if `inverse`; without a reference it
    applies to `value`."""

    model_config = ConfigDict(frozen=True)

    what: str
    value: float
    unit: str
    reference: float | None = None
    reference_is: str = ""
    inverse: bool = False
    limit: float | None = None
    sense: Literal["at most", "at least"] = "at most"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float | None:
        if self.reference is None:
            return None
        above, below = (self.reference, self.value) if self.inverse else (self.value, self.reference)
        return above / below if below else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        compared = self.value if self.reference is None else self.ratio
        if compared is None:
            return False
        return compared <= self.limit if self.sense == "at most" else compared >= self.limit


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of values ~ sizes ** e, by least squares on logarithms; 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def machine() -> dict[str, Any]:
    """Cores, memory and software of this machine, without its name."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "cpu": model,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def report(name: str, rows: Sequence[Row], quick: bool = False) -> dict[str, Any]:
    """Write `<home>/benchmarks/<name>.json`; returns its content."""
    document = {"name": name, "quick": quick, "machine": machine(), "rows": [row.model_dump() for row in rows]}
    folder = get_settings().home / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return document
