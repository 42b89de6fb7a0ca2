"""Processes of our own, each in a session of its own with its output in a log, stopped with all that it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from truecourse.errors import PlatformError

GRACE = 6.0
"""Seconds between one signal and the next. Some servers need a second SIGTERM, so that is what they get."""


@dataclass(frozen=True)
class Child:
    """A process that we started: what it is to a person, and where its output goes."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 300) -> None:
        """Raises PlatformError, with the end of the log, if it ends or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                ended = f"ended with status {self.process.returncode}"
                what = f"is not ready after {seconds:.0f} s" if self.alive else ended
                raise PlatformError(f"{what}\n{self.tail()}", where=self.name, cure=f"the whole log is {self.log}")
            time.sleep(0.1)


def start(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int] = ()
) -> Child:
    """`inherited`: open files that it shares, by descriptor. Raises PlatformError if its log cannot be written or the
    program cannot be started."""
    require_writable(log.parent)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=dict(environment), start_new_session=True, pass_fds=inherited,
            )  # fmt: skip
    except OSError as error:
        raise PlatformError(f"cannot be started: {error}", where=name, cure="run `make setup`") from None
    return Child(name, process, log)


def stop(*children: Child) -> None:
    """Stop the processes and their descendants, last started first."""
    end([process for child in reversed(children) for process in family(child.process.pid)])
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(GRACE)


def end(doomed: list[Any]) -> None:
    """Stop processes (of psutil), all at once: SIGTERM, once more, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        for process in doomed:
            _send(process, number)
        doomed = _still_there(doomed, GRACE)
        if not doomed:
            break


def started_at(pid: int) -> float | None:
    """When the process was started, seconds since the epoch (pids are used again); None if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def family(pid: int) -> list[Any]:
    """A process and its descendants, itself last; none if it is gone."""
    import psutil

    try:
        leader = psutil.Process(pid)
        # A worker's own children may have left its process group, so the tree is asked, not the group.
        return [*leader.children(recursive=True), leader]
    except psutil.NoSuchProcess:
        return []


def _send(process: Any, number: int) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _still_there(processes: list[Any], seconds: float) -> list[Any]:
    import psutil

    return list(psutil.wait_procs(processes, timeout=seconds)[1])


@contextmanager
def supervised() -> Iterator[list[Child]]:
    """A list to put children in; however the block ends, SIGTERM included, all of them are stopped."""
    children: list[Child] = []
    with terminable():
        try:
            yield children
        finally:
            with _undisturbed():
                stop(*children)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt the block as Ctrl-C does, and so does a SIGINT to a process that a script started
    in the background, where shells have it ignored. Outside the main thread nothing is changed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave half of the processes behind; the wait is bounded anyway."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def require_free(host: str, port: int, what: str, setting: str) -> None:
    """Raises PlatformError that names the port and the variable to change if somebody listens there."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError as error:
            cure = f"stop what listens there, or set {setting} to another port"
            raise PlatformError(f"{what} needs port {port}: {error.strerror}", where=host, cure=cure) from None


def free_port(host: str) -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as candidate:
        candidate.bind((host, 0))
        return int(candidate.getsockname()[1])


def require_writable(folder: Path) -> None:
    """Create the folder if need be. Raises PlatformError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(folder), cure="set TRUECOURSE_HOME"
        ) from None
    if not writable:
        raise PlatformError("cannot be written", where=str(folder), cure="set TRUECOURSE_HOME to a folder of yours")
