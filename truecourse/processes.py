"""Processes of our own, each in a session of its own with its output in a log, stopped with all that it started."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from truecourse import log_files
from truecourse.errors import PlatformError
from truecourse.settings import variables_of

GRACE = 6.0
"""Seconds between one signal and the next. Some servers need a second SIGTERM, so that is what they get."""
LONGEST, STABLE = 30.0, 60.0
"""Seconds: the longest pause before a process that keeps dying is started again; a life after which it is at once."""
MARK = "_TRUECOURSE_CHILD"
"""The variable by which a process, and all that it starts, is told to be one of ours: who started it, and what it is.
A tree of processes is lost when its root is killed; the environment is not."""


@dataclass(frozen=True)
class Child:
    """A process that we started: what it is to a person, and where its output goes. `start`: the offset in its log at
    which it began. `mark`: the value of MARK that it and its descendants have; empty for one that outlives us."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    start: int = 0
    mark: str = ""
    born: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """The end of what it has said since it was started."""
        return log_files.tail(self.log, lines, self.start)

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 300) -> None:
        """Raises PlatformError, with the end of the log, if it ends or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                ended = f"ended with status {self.process.returncode}"
                what = f"is not ready after {seconds:.0f} s" if self.alive else ended
                raise PlatformError(f"{what}\n{self.tail()}", where=self.name, hint=f"the whole log is {self.log}")
            time.sleep(0.1)


class Backoff:
    """How long to wait before a process that died is started again: not at all after a long life, and twice as long
    as the last time after a short one."""

    def __init__(self) -> None:
        self._failures = 0

    def pause(self, lived: float) -> float:
        """Seconds to wait, after a life of `lived` seconds."""
        self._failures = 0 if lived >= STABLE else self._failures + 1
        return min(LONGEST, 2.0 ** (self._failures - 2)) if self._failures else 0.0


def start(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    inherited: Sequence[int] = (),
    *,
    outlives: bool = False,
) -> Child:
    """Start a process; its output is appended to `log`.

    `inherited`: open files that it shares, by descriptor. `outlives`: it is meant to go on when we end. Raises
    PlatformError if its log cannot be written or the program cannot be started."""
    require_writable(log.parent)
    mark = "" if outlives else ":".join([str(os.getpid()), started_at(os.getpid()) or "", name, secrets.token_hex(8)])
    # What outlives a worker's flow run is no process of that run.
    dropped = (MARK, "PREFECT__") if outlives else (MARK,)
    marked = {key: value for key, value in environment.items() if not key.startswith(dropped)}
    marked |= {MARK: mark} if mark else {}
    try:
        output, begin = log_files.open_log(log, name)
        with output:
            process = subprocess.Popen(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=marked, start_new_session=True, pass_fds=inherited,
            )  # fmt: skip
    except OSError as error:
        raise PlatformError(f"cannot be started: {error}", where=name, hint="run `make setup`") from None
    return Child(name, process, log, begin, mark)


def stop(*children: Child) -> None:
    """Stop the processes and their descendants, those included whose parent is dead, last started first."""
    marks = {child.mark for child in children if child.mark}
    doomed = {process.pid: process for child in reversed(children) for process in process_tree(child.process.pid)}
    doomed |= {process.pid: process for process, mark in _marked() if mark in marks}
    terminate(list(doomed.values()))
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(GRACE)


def orphans(child: Child, kept: str = "") -> list[Any]:
    """Descendants (of psutil) of a child that is dead; not those that have the variable `kept` in their environment."""
    return [one for one, mark in _marked() if mark == child.mark and not (kept and kept in variables_of(one))]


@dataclass(frozen=True)
class Leftover:
    """A process whose starter was killed before it could stop it: what it is, and its endpoint's port, if any."""

    process: Any
    name: str
    port: int | None


def leftovers(home: Path) -> list[Leftover]:
    """What killed commands of this home have left running."""
    found = []
    for process, mark in _marked():
        pid, started, name = [*mark.split(":"), "", ""][:3]
        variables = variables_of(process)
        if variables.get("TRUECOURSE_HOME") == str(home) and pid.isdigit() and started_at(int(pid)) != started:
            port = variables.get("TRUECOURSE_ENDPOINT_PORT", "")
            found.append(Leftover(process, name, int(port) if port.isdigit() else None))
    return found


def find_by_variable(name: str) -> list[tuple[int, str]]:
    """The processes of this user that were started with the variable: their ids, and its value."""
    import psutil

    found = ((process.pid, variables_of(process).get(name)) for process in psutil.process_iter())
    return [(pid, value) for pid, value in found if value is not None]


def command_line_words() -> set[str]:
    """Every word of the command lines of this machine's processes, as far as they may be read."""
    import psutil

    return {word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()}


def _marked() -> list[tuple[Any, str]]:
    """Every living process of ours (of psutil) with its mark."""
    import psutil

    found = ((process, variables_of(process).get(MARK, "")) for process in psutil.process_iter())
    return [(process, mark) for process, mark in found if mark]


def terminate(doomed: list[Any]) -> None:
    """Stop processes (of psutil), all at once: SIGTERM, once more, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        for process in doomed:
            _send(process, number)
        doomed = _still_there(doomed, GRACE)
        if not doomed:
            break


def started_at(pid: int) -> str | None:
    """When the process was started, for comparing alone (pids are used again); None if it is gone.

    Counted from the boot where the system tells: the time of day is set anew while processes live."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        text = Path(f"/proc/{pid}/stat").read_text() if _boot() else ""
        # The name in parentheses may hold spaces; the start is the 22nd field, proc(5).
        return f"{_boot()}-{text.rpartition(')')[2].split()[19]}" if text else repr(process.create_time())
    except (psutil.NoSuchProcess, OSError):
        return None


@cache
def _boot() -> str:
    """What tells this boot from the others; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return ""


def process_tree(pid: int) -> list[Any]:
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
    with interrupted_by_signals():
        try:
            yield children
        finally:
            with ignoring_interrupts():
                stop(*children)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt the block as Ctrl-C does, and so does a SIGINT to a process that a script started
    in the background, where shells have it ignored. Outside the main thread nothing is changed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
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


def require_writable(folder: Path) -> None:
    """Create the folder if need be. Raises PlatformError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(folder), hint="set TRUECOURSE_HOME"
        ) from None
    if not writable:
        raise PlatformError("cannot be written", where=str(folder), hint="set TRUECOURSE_HOME to a folder of yours")
