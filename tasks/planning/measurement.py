"""Measure functions in fresh processes: time, CPU time and peak memory."""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from truecourse.errors import PlatformError
from truecourse.settings import REPOSITORY, child_environment

_MARK = "@@measured "
_ALONE = {
    "TRUECOURSE_STORAGE": "", "TRUECOURSE_ONLINE_STORE": "sqlite", "TRUECOURSE_MLFLOW_URI": "",
    "TRUECOURSE_WEBHOOK": "", "TRUECOURSE_MAIL_HOST": "", "TRUECOURSE_OPENLINEAGE": "off", "TRUECOURSE_ENDPOINTS": "",
}  # fmt: skip
"""Settings of a process that uses its home alone: no server, and no receiver of notifications or events."""


class Measurement(BaseModel):
    """One measured run: wall and CPU seconds (all threads and children), peak memory, and the function's result."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpu: float
    peak_bytes: int
    result: Any = None


def measure(
    function: str, home: Path | None = None, problems: Path | None = None, alone: bool = False, **arguments: Any
) -> Measurement:
    """Run `module:function` in a fresh process and measure it. `alone`: without the servers that the settings name.

    The function does the setup with the arguments and returns a function without arguments, which is measured. Its
    result must be JSON. Raises PlatformError if the process fails."""
    environment = child_environment(PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore", PYTHONWARNINGS="ignore")
    if alone:
        environment |= _ALONE
    if problems is not None:
        environment |= {"TRUECOURSE_PROBLEMS": str(problems)}
    if home is not None:
        environment |= {"TRUECOURSE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    command = [sys.executable, "-m", "tasks.planning.measurement", function, json.dumps(arguments, default=str)]
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


if __name__ == "__main__":
    _child(*sys.argv[1:])
