"""Measuring in a process of its own, rows that hold or do not, and the report."""

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


class Measured(BaseModel):
    """One run: wall and CPU seconds (all threads and children), the process's peak memory, what the call returned."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpu: float
    peak_bytes: int
    result: Any = None


def measure(function: str, home: Path | None = None, problems: Path | None = None, **arguments: Any) -> Measured:
    """Run `module:function` in a fresh process. The function is called with the arguments to get ready, and returns a
    function of no arguments, which is measured; its result must be JSON. Raises PlatformError if it fails."""
    environment = child_environment(PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore", PYTHONWARNINGS="ignore")
    if problems is not None:
        environment |= {"TRUECOURSE_PROBLEMS": str(problems)}
    if home is not None:
        environment |= {"TRUECOURSE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    command = [sys.executable, "-m", "benchmarks.harness", function, json.dumps(arguments, default=str)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)  # noqa: S603
    marked = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not marked:
        raise PlatformError(f"the measured process failed:\n{done.stderr[-3000:]}", where=function)
    return Measured.model_validate_json(marked[-1].removeprefix(_MARK))


def _child(function: str, arguments: str) -> None:
    module, _, name = function.partition(":")
    run = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    wall, cpu = time.perf_counter(), _cpu()
    result = run()
    seconds, used = time.perf_counter() - wall, _cpu() - cpu
    made = Measured(seconds=seconds, cpu=used, peak_bytes=_peak(), result=result)
    sys.stdout.write(f"\n{_MARK}{made.model_dump_json()}\n")
    sys.stdout.flush()
    os._exit(0)  # no time for goodbyes: servers' heartbeats would delay them


def _peak() -> int:
    """Bytes. On Linux ru_maxrss starts at what the parent held when it started us: the kernel's own mark does not."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if not status.exists():
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children) * unit
    marks = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return max(int(marks["VmHWM"].split()[0]), children) * unit


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Row(BaseModel):
    """A promise and whether it holds. `ratio` is of `value` to `reference`, or the other way round where `times` says
    how many times less (or more) it is; without a reference the value itself is held against `limit`."""

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
        held = self.value if self.reference is None else self.ratio
        if held is None:
            return False
        return held <= self.limit if self.sense == "at most" else held >= self.limit


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of values ~ sizes ** e, by least squares on logarithms: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def machine() -> dict[str, Any]:
    """Cores, memory and software: enough to judge a figure by, and no names."""
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
    """Write `<home>/benchmarks/<name>.json`, and return it."""
    document = {"name": name, "quick": quick, "machine": machine(), "rows": [row.model_dump() for row in rows]}
    folder = get_settings().home / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return document


if __name__ == "__main__":
    _child(*sys.argv[1:])
