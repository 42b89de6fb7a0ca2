"""The files of the metrics reserve all the space they will need, before the disk is full."""

import os
import subprocess
import sys
from pathlib import Path

from services.compat.prometheus_files import SIZE, remove_dead_gauges
from tests.conftest import REPOSITORY
from truecourse.settings import child_environment

COUNTING = """
from services.compat import prometheus_files
prometheus_files.preallocate()
from services.telemetry.prometheus_metrics import Metrics

paths = [f"/a-path-{number}" for number in range(20)]
metrics = Metrics(paths)
for path in (*paths, "/nowhere"):
    for status in (200, 302, 404, 503):
        metrics.count_request(path, status, 0.1)
    metrics.rows.labels(path).inc()
for view in range(40):
    metrics.record_lookup("v" * 40 + str(view), 1, 0, 60.0)
    metrics.record_unavailable(["v" * 40 + str(view)])
print(metrics.exposition().decode().count("truecourse_request_seconds_count"))
"""


def counted(folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = child_environment(PROMETHEUS_MULTIPROC_DIR=str(folder))
    command = [sys.executable, "-c", COUNTING]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)


def test_no_metrics_file_grows_beyond_its_reserved_space(tmp_path: Path) -> None:
    assert int(counted(tmp_path).stdout) > 10
    files = list(tmp_path.glob("*.db"))
    assert files
    for file in files:
        assert file.stat().st_size == SIZE
        assert file.stat().st_blocks * 512 >= SIZE


def test_without_disk_space_metrics_are_kept_in_memory() -> None:
    counting = counted(Path("/proc"))  # where nobody can make a file
    assert "are not reported" in counting.stderr
    assert counting.stdout.strip() == "0"


def test_gauges_of_dead_workers_are_removed_by_their_file_names(tmp_path: Path) -> None:
    counted(tmp_path)  # by a process that has ended
    gauges = [file.name for file in tmp_path.glob("gauge_*")]
    assert [name.rpartition("_")[0] for name in gauges] == ["gauge_livemax"]
    living = tmp_path / f"gauge_livemax_{os.getpid()}.db"
    living.write_bytes((tmp_path / gauges[0]).read_bytes())
    remove_dead_gauges(tmp_path)
    assert list(tmp_path.glob("gauge_*")) == [living]
    assert list(tmp_path.glob("counter_*"))
