"""Child processes are stopped with all their descendants, also after errors and signals."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from truecourse.addresses import require_free
from truecourse.errors import PlatformError
from truecourse.processes import require_writable, start, stop, supervised

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('in', flush=True); time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(child.pid, flush=True)
time.sleep(99)
"""


def test_stopping_reaches_grandchildren_that_ignore_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truecourse.processes.GRACE", 0.3)
    child = start("stubborn", [sys.executable, "-c", STUBBORN], os.environ, tmp_path / "log")
    child.wait_ready(lambda: "in" in child.tail(), 30)
    grandchild = next(int(line) for line in child.tail().splitlines() if line.isdigit())
    stop(child)
    assert not child.alive
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ends_before_it_is_ready_is_an_error_with_its_log(tmp_path: Path) -> None:
    child = start("a server", [sys.executable, "-c", "print('no such bucket'); exit(3)"], os.environ, tmp_path / "log")
    with pytest.raises(PlatformError, match=r"status 3\nno such bucket"):
        child.wait_ready(lambda: False, 30)


def test_a_block_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    started = []

    def failing() -> None:
        with supervised() as children:
            children.append(start("sleeper", ["sleep", "99"], os.environ, tmp_path / "log"))
            started.extend(children)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert not started[0].alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_running(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from truecourse.processes import start, supervised
with supervised() as children:
    children.append(start("sleeper", ["sleep", "99"], os.environ, Path({str(tmp_path / "log")!r})))
    print(children[0].process.pid, flush=True)
    time.sleep(99)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    assert process.wait(30) != 0
    wait_until(lambda: not psutil.pid_exists(pid), 5, "the end of the child")
    process.stdout.close()


def test_a_taken_port_is_an_error_that_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError, match=rf"Prefect needs port {port}[\s\S]*TRUECOURSE_PREFECT_PORT"):
            require_free("127.0.0.1", port, "Prefect", "TRUECOURSE_PREFECT_PORT")
    require_free("127.0.0.1", port, "Prefect", "TRUECOURSE_PREFECT_PORT")


def test_an_unwritable_folder_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="TRUECOURSE_HOME"):
        require_writable(tmp_path / "file" / "home")


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be started"):
        start("a server", ["no-such-program"], os.environ, tmp_path / "log")
