"""Supervision with real processes: a dead process is restarted without affecting others."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.process import platform_supervisor as module
from services.process.platform_supervisor import Part, Supervisor
from tests.conftest import free_ports, wait_until
from truecourse import processes
from truecourse.addresses import require_free
from truecourse.errors import ModelError
from truecourse.processes import LONGEST, STABLE, Backoff, Child, leftovers, start, started_at

SERVER = """
import os, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
    print("listening as", os.getpid(), flush=True)
    while True:
        listening.accept()[0].close()
"""
FORKING = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
time.sleep(99)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.2)
    monkeypatch.setattr(module, "PROBE", 0.3)


@pytest.fixture
def run(home: Path) -> Iterator[Callable[..., Supervisor]]:
    running = []

    def begin(*parts: Part, on_change: Callable[[Any], None] = lambda states: None) -> Supervisor:
        running.append(Supervisor(parts, on_change))
        running[-1].start()
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def serving(name: str, port: int, folder: Path, program: str = SERVER, **options: Any) -> Part:
    def begin() -> Child:
        require_free("127.0.0.1", port, name, "A_PORT")
        words = [sys.executable, "-c", program, *([SERVER] if program == FORKING else []), str(port)]
        return start(name, words, os.environ, folder / f"{name}.log")

    return Part(name, begin, lambda _: answers(port), **options)


def state(of: Supervisor, name: str) -> dict[str, Any]:
    return next(one for one in of.states() if one["part"] == name)


def wait_until_up(of: Supervisor, *names: str) -> bool:
    return all(of.standing(name) == "up" for name in names)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_is_restarted_without_affecting_others(
    number: signal.Signals, run: Callable[..., Supervisor], tmp_path: Path
) -> None:
    ports = free_ports(2)
    snapshots: list[Any] = []
    of = run(serving("one", ports[0], tmp_path), serving("other", ports[1], tmp_path), on_change=snapshots.append)
    wait_until(lambda: wait_until_up(of, "one", "other"), 20, "both")
    other, pid = state(of, "other")["pid"], state(of, "one")["pid"]
    os.kill(pid, number)
    wait_until(lambda: wait_until_up(of, "one") and state(of, "one")["pid"] != pid, 20, "the next one")
    assert state(of, "one")["restarts"] == 1
    assert state(of, "other")["pid"] == other
    assert state(of, "other")["restarts"] == 0
    down = next(s for states in snapshots for s in states if s["part"] == "one" and s["standing"] == "down")
    assert down["cause"] == f"ended by signal {int(number)}"
    assert down["last_line"] == f"listening as {pid}"
    log = (tmp_path / "one.log").read_text()
    assert f"listening as {pid}" in log, "a restart erases nothing"
    assert f"listening as {state(of, 'one')['pid']}" in log


def test_a_crash_looping_process_is_reported_with_its_log_and_backs_off(
    run: Callable[..., Supervisor], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    words = [sys.executable, "-c", "print('no such database'); exit(3)"]
    broken = Part("broken", lambda: start("broken", words, os.environ, tmp_path / "log"), lambda _: False)
    of = run(broken, serving("well", port, tmp_path))
    wait_until(lambda: wait_until_up(of, "well") and state(of, "broken")["restarts"] >= 2, 20, "two restarts")
    wait_until(lambda: of.standing("broken") == "down", 20, "its end")
    assert state(of, "broken")["cause"] == "ended with status 3"
    assert state(of, "broken")["last_line"] == "no such database"
    assert state(of, "well")["restarts"] == 0


def test_the_backoff_grows_and_resets_after_a_long_life() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(0.1) for _ in range(12)]
    assert pauses[:4] == [0.5, 1, 2, 4]
    assert pauses[-1] == LONGEST
    assert backoff.pause(STABLE) == 0
    assert backoff.pause(0.1) == 0.5


def test_a_taken_port_is_reported_and_the_process_recovers(run: Callable[..., Supervisor], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as taken:
        of = run(serving("server", port, tmp_path))
        wait_until(lambda: of.standing("server") == "down", 20, "its failure")
        assert f"needs port {port}" in state(of, "server")["cause"]
        assert str(os.getpid()) in state(of, "server")["cause"], "who has it"
        taken.close()
    wait_until(lambda: wait_until_up(of, "server"), 20, "the server")


def test_dependent_processes_wait(run: Callable[..., Supervisor], tmp_path: Path) -> None:
    ports = free_ports(2)
    there: list[Any] = []
    first = serving("first", ports[0], tmp_path)

    def later() -> Child:
        if not there:
            raise ModelError("there is no champion yet")
        return first.start()

    of = run(Part("first", later, first.ready), serving("second", ports[1], tmp_path, needs="first"))
    wait_until(lambda: of.standing("second") == "waiting", 20, "waiting")
    wait_until(lambda: state(of, "first")["cause"] == "there is no champion yet", 20, "the reason")
    assert of.first_outcome("first") is not None, "for want of a champion: that is no fault"
    there.append(True)
    wait_until(lambda: wait_until_up(of, "first", "second"), 30, "both")


def test_children_of_a_killed_process_release_its_port(run: Callable[..., Supervisor], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    of = run(serving("forking", port, tmp_path, FORKING))
    wait_until(lambda: wait_until_up(of, "forking"), 20, "it")
    pid = state(of, "forking")["pid"]
    (worker,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: wait_until_up(of, "forking") and state(of, "forking")["pid"] != pid, 30, "the next one")
    assert started_at(worker.pid) is None


def test_an_unresponsive_process_is_silent(run: Callable[..., Supervisor], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    answering = [True]
    part = serving("server", port, tmp_path)
    of = run(Part("server", part.start, lambda child: answering[0] and part.ready(child)))
    wait_until(lambda: wait_until_up(of, "server"), 20, "it")
    answering[0] = False
    wait_until(lambda: of.standing("server") == "silent", 20, "silence")
    answering[0] = True
    wait_until(lambda: wait_until_up(of, "server"), 20, "its answer")
    assert state(of, "server")["restarts"] == 0


def test_a_server_that_is_silent_for_too_long_is_restarted(
    run: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is alive, but accepts no connections: a deadlock, or a first process without workers."""
    monkeypatch.setattr(module, "SILENT", 1.0)
    ports = free_ports(2)
    parts = [serving(name, port, tmp_path) for name, port in zip("ab", ports, strict=True)]

    def closes(port: int) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3) as connection:
            return connection.recv(1) == b""
        return False

    def watched(part: Part, port: int, **options: Any) -> Part:
        return Part(part.name, part.start, lambda _: closes(port), **options)

    of = run(watched(parts[0], ports[0], live=lambda _: closes(ports[0])), watched(parts[1], ports[1]))
    wait_until(lambda: wait_until_up(of, "a", "b"), 20, "both")
    started = [state(of, name)["pid"] for name in "ab"]
    for pid in started:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(of, "a")["restarts"] == 1 and wait_until_up(of, "a"), 30, "its restart")
    assert state(of, "a")["pid"] != started[0]
    assert started_at(started[0]) is None
    assert (of.standing("b"), state(of, "b")["pid"]) == ("silent", started[1]), "it has no liveness check"
    os.kill(started[1], signal.SIGCONT)


def test_leftovers_of_a_killed_command_are_found_except_detached_ones(home: Path, tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from truecourse.processes import start
from truecourse.settings import child_environment
folder = Path({str(tmp_path)!r})
for outlives in (False, True):
    child = start("sleeper", ["sleep", "99"], child_environment(), folder / "log", outlives=outlives)
    print(child.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    command = start("command", [sys.executable, "-c", code], os.environ, tmp_path / "command.log")
    command.process.wait(30)
    left, outlives = (int(line) for line in command.tail().splitlines())
    try:
        assert [one.process.pid for one in leftovers(home)] == [left]
        assert leftovers(tmp_path / "another") == []
        processes.terminate([one.process for one in leftovers(home)])
        assert started_at(left) is None
        assert started_at(outlives) is not None
    finally:
        os.kill(outlives, signal.SIGKILL)
