"""`truecourse explore` over a file of 10 million rows and 30 columns.

The reference is ydata-profiling (minimal=True) on 100,000 evenly spaced rows of the same file, in an environment of its
own that uv makes. Its CPU time is compared for each row."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import Row, measure
from truecourse.errors import PlatformError
from truecourse.settings import REPOSITORY

ROWS, SAMPLE = 10_000_000, 100_000
_LONGEST, _MOST_MEMORY = 60.0, 4.0
_PROFILER = ("ydata-profiling>=4.18,<5", "setuptools<81")  # it imports pkg_resources
_SCRIPT = """
import json, resource, sys
import pandas
from ydata_profiling import ProfileReport
before = resource.getrusage(resource.RUSAGE_SELF)
report = ProfileReport(pandas.read_csv(sys.argv[1]), minimal=True, progress_bar=False)
report.to_file(sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"cpu": cpu, "peak_bytes": after.ru_maxrss * 1024}))
"""


def rows(quick: bool) -> list[Row]:
    count = ROWS // 20 if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="truecourse-bench-") as name:
        folder = Path(name)
        write_table(folder / "table.csv", count)
        ours = measure("benchmarks.pipeline.exploration:explore_file", home=folder / "home", path=folder / "table.csv")
        write_sample(folder / "table.csv", folder / "sample.csv", count // SAMPLE)
        theirs = profile(folder / "sample.csv", folder / "report.html")
    what = f"explore {count:,} rows of 30 columns"
    return [
        Row(what=f"{what}: wall time", value=ours.seconds, unit="s", limit=_LONGEST),
        Row(what=f"{what}: peak memory", value=ours.peak_bytes / 1e9, unit="GB", limit=_MOST_MEMORY),
        Row(
            what="explore: CPU time of a row", value=1e6 * ours.cpu / count, unit="µs",
            reference=1e6 * theirs["cpu"] / SAMPLE, reference_is=f"ydata-profiling, {SAMPLE:,} rows", limit=1.0,
        ),
        Row(what="the same: peak memory", value=theirs["peak_bytes"] / 1e9, unit="GB"),
    ]  # fmt: skip


def explore_file(path: str) -> Callable[[], int]:
    from truecourse.exploration.explore import explore
    from truecourse.exploration.page import render_page
    from truecourse.exploration.source import Roles, file_source

    def run() -> int:
        with file_source(path, Roles(label="label", time="created_at")) as source:
            return len(render_page(explore(source)))

    return run


def write_table(path: Path, count: int) -> None:
    """Numbers, texts of 5 to 5,000 values, two identifiers, a time, missing values and a label."""
    columns = ["i AS id", "TIMESTAMP '2023-01-01' + to_seconds((i * 3)::BIGINT) AS created_at"]
    columns += [f"round(random() * {10 ** (k % 5 + 1)}, {k % 4}) AS number_{k}" for k in range(12)]
    columns += [f"(random() * {50 * (k + 1)})::INTEGER AS count_{k}" for k in range(6)]
    columns += [f"'value_' || (random() * {5 * 4**k})::INTEGER AS word_{k}" for k in range(6)]
    columns += ["md5(i::VARCHAR) AS token", "random() < 0.3 AS flag"]
    columns += [
        "CASE WHEN random() < 0.8 THEN round(random() * 9, 3) END AS sparse",
        "(random() < 0.2)::INTEGER AS label",
    ]
    query = f"SELECT {', '.join(columns)} FROM range({count}) rows(i)"  # noqa: S608
    duckdb.sql(f"SELECT setseed(0.5); COPY ({query}) TO '{path}' (HEADER)")


def write_sample(path: Path, sample: Path, step: int) -> None:
    query = f"SELECT * FROM read_csv('{path}') WHERE id % {step} = 0"  # noqa: S608
    duckdb.sql(f"COPY ({query}) TO '{sample}' (HEADER)")


def profile(sample: Path, page: Path) -> dict[str, Any]:
    """Profile the sample by the reference. Raises PlatformError if its environment cannot be made."""
    local = REPOSITORY / ".uv" / "bin" / "uv"
    uv = str(local) if local.exists() else shutil.which("uv")
    if uv is None:
        raise PlatformError("uv is not installed", where="exploration", hint="run `make setup`, which brings it")
    command = [
        uv,
        "run",
        "--no-project",
        "--isolated",
        "--python",
        sys.executable,
        *(f"--with={one}" for one in _PROFILER),
    ]
    process = subprocess.run(  # noqa: S603
        [*command, "python", "-W", "ignore", "-c", _SCRIPT, str(sample), str(page)], capture_output=True, text=True
    )
    if process.returncode:
        raise PlatformError(f"the reference failed:\n{process.stderr[-2000:]}", where="ydata-profiling")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found
