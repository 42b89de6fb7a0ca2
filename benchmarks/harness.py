"""Measure functions in fresh processes, compare the results with limits, and write the report."""

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from truecourse.errors import PlatformError
from truecourse.settings import REPOSITORY, child_environment, get_settings

_MARK = "@@measured "


class Measurement(BaseModel):
    """One measured run: wall and CPU seconds (all threads and children), peak memory, and the function's result."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpu: float
    peak_bytes: int
    result: Any = None


def measure(function: str, home: Path | None = None, problems: Path | None = None, **arguments: Any) -> Measurement:
    """Run `module:function` in a fresh process and measure it.

    The function does the setup with the arguments and returns a function without arguments, which is measured. Its
    result must be JSON. Raises PlatformError if the process fails."""
    environment = child_environment(PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore", PYTHONWARNINGS="ignore")
    if problems is not None:
        environment |= {"TRUECOURSE_PROBLEMS": str(problems)}
    if home is not None:
        environment |= {"TRUECOURSE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    command = [sys.executable, "-m", "benchmarks.harness", function, json.dumps(arguments, default=str)]
    process = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)  # noqa: S603
    lines = [line for line in process.stdout.splitlines() if line.startswith(_MARK)]
    if process.returncode or not lines:
        raise PlatformError(f"the measured process failed:\n{process.stderr[-3000:]}", where=function)
    return Measurement.model_validate_json(lines[-1].removeprefix(_MARK))


def _child(function: str, arguments: str) -> None:
    module, _, name = function.partition(":")
    run = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = run()
    seconds, cpu_used = time.perf_counter() - wall, cpu_seconds() - cpu
    measurement = Measurement(seconds=seconds, cpu=cpu_used, peak_bytes=_peak(), result=result)
    sys.stdout.write(f"\n{_MARK}{measurement.model_dump_json()}\n")
    sys.stdout.flush()
    os._exit(0)  # exit at once: heartbeats of servers would delay a normal exit


def _peak() -> int:
    """Peak memory in bytes. On Linux ru_maxrss starts at the parent's memory; VmHWM does not, so it is read instead."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if not status.exists():
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children) * unit
    marks = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return max(int(marks["VmHWM"].split()[0]), children) * unit


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


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


if __name__ == "__main__":
    _child(*sys.argv[1:])
