"""The replay's worker process: it uses the replay's problem, reports errors, and ends with its parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.replay.worker_process import WorkerProcess
from tests import simulated_deliveries
from tests.conftest import REPOSITORY, wait_until
from tests.replay_worker_functions import describe_context, raise_feature_error
from truecourse.errors import FeatureError
from truecourse.settings import child_environment, get_settings, override_settings

HELD = """
import os, sys, time
from tasks.replay.worker_process import WorkerProcess
from tests.replay_worker_functions import busy
if __name__ == "__main__":
    with WorkerProcess("deliveries") as worker:
        worker.submit(busy)
        print(os.getpid(), flush=True)
        time.sleep(600)
"""


@pytest.fixture
def installed(tmp_path: Path, configure: Callable[..., None]) -> Path:
    problems = tmp_path / "problems"
    simulated_deliveries.install(problems)
    configure(home=tmp_path / ".truecourse", problems=problems)
    return tmp_path


def test_the_worker_process_has_the_settings_of_its_block_and_ends_with_it(installed: Path) -> None:
    with override_settings(home=installed / "other", storage=""), WorkerProcess("deliveries") as worker:
        futures = [worker.submit(describe_context, "a"), worker.submit(describe_context, word="b")]
        (process, problem, root, first), (other, *_, second) = (one.result() for one in futures)
        assert process == other != os.getpid()
        assert (problem, first, second) == ("deliveries", "a", "b")
        assert root == str(installed / "other" / "storage")
        with pytest.raises(FeatureError, match="no such day") as error:
            worker.submit(raise_feature_error).result()
        assert error.value.hint == "ask for another"
        assert worker.submit(describe_context, "c").result()[0] == process  # the process survives an error
    assert not psutil.pid_exists(process)


def test_a_busy_worker_process_ends_when_its_parent_is_killed(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "held.py"
    script.write_text(HELD)
    environment = child_environment(PYTHONPATH=str(REPOSITORY))
    held = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True)
    assert held.stdout is not None
    assert int(held.stdout.readline()) == held.pid
    mark = get_settings().home / "busy"
    wait_until(mark.exists, 60, "the busy worker process")
    family = psutil.Process(held.pid).children(recursive=True)
    assert int(mark.read_text()) in [one.pid for one in family]
    held.send_signal(signal.SIGKILL)
    held.wait(10)
    wait_until(lambda: not any(map(psutil.Process.is_running, family)), 20, "the end of all that it started")
