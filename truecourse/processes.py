"""Child processes: each has its own session and log file, and is stopped together with its descendants."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from truecourse import log_files
from truecourse.compat import prefect_variables
from truecourse.errors import PlatformError
from truecourse.settings import variables_of

GRACE = 6.0
"""Seconds between two signals. Some servers need a second SIGTERM."""
LONGEST, STABLE = 30.0, 60.0
"""Seconds: the longest restart pause; the uptime after which a process that dies is restarted at once."""
MARK = "_TRUECOURSE_CHILD"
"""The environment variable that marks our processes and their descendants: parent id and start time, name, random id.
When the root of a process tree is killed, the tree is lost and the environment is kept."""


@dataclass(frozen=True)
class Child:
    """A process that we started. `name`: for messages. `start`: the offset in `log` at which its output begins. `mark`:
    the value of MARK in it and its descendants; empty for a process that outlives us."""

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
        """The last lines of its output since it was started."""
        return log_files.tail(self.log, lines, self.start)

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until `ready()` is true. Raises PlatformError, with the end of the log, if the process ends first or
        `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                ended = f"ended with status {self.process.returncode}"
                what = f"is not ready after {seconds:.0f} s" if self.alive else ended
                raise PlatformError(f"{what}\n{self.tail()}", where=self.name, hint=f"the whole log is {self.log}")
            time.sleep(0.1)


class Backoff:
    """Exponential backoff of restarts: no pause after a long uptime, and twice the last pause after a short one."""

    def __init__(self) -> None:
        self._failures = 0

    def pause(self, uptime: float) -> float:
        """Seconds to wait after `uptime` seconds."""
        self._failures = 0 if uptime >= STABLE else self._failures + 1
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

    `inherited`: descriptors of open files that it inherits. `outlives`: it continues when we end. Raises PlatformError
    if its log cannot be written or the program cannot be started."""
    require_writable(log.parent)
    mark = "" if outlives else ":".join([str(os.getpid()), started_at(os.getpid()) or "", name, secrets.token_hex(8)])
    # A process that outlives a worker's flow run does not belong to that run.
    removed = (MARK, prefect_variables.PREFIX) if outlives else (MARK,)
    variables = {key: value for key, value in environment.items() if not key.startswith(removed)}
    variables |= {MARK: mark} if mark else {}
    try:
        output, begin = log_files.open_log(log, name)
        with output:
            process = subprocess.Popen(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=variables, start_new_session=True, pass_fds=inherited,
            )  # fmt: skip
    except OSError as error:
        raise PlatformError(f"cannot be started: {error}", where=name, hint="run `make setup`") from None
    return Child(name, process, log, begin, mark)


def stop(*children: Child) -> None:
    """Stop processes and their descendants, including orphans, last started first."""
    marks = {child.mark for child in children if child.mark}
    targets = {process.pid: process for child in reversed(children) for process in process_tree(child.process.pid)}
    targets |= {process.pid: process for process, mark in _marked_processes() if mark in marks}
    terminate(list(targets.values()))
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(GRACE)


def orphans(child: Child, kept: str = "") -> list[Any]:
    """Descendants (psutil) of a dead child, without those that have the variable `kept` in their environment."""
    descendants = [process for process, mark in _marked_processes() if mark == child.mark]
    return [process for process in descendants if not (kept and kept in variables_of(process))]


@dataclass(frozen=True)
class Leftover:
    """A process whose parent command was killed before it could stop it. `port`: of its endpoint, if it has one."""

    process: Any
    name: str
    port: int | None


def leftovers(home: Path) -> list[Leftover]:
    """Processes that killed commands of this home left running."""
    orphaned = []
    for process, mark in _marked_processes():
        pid, started, name = [*mark.split(":"), "", ""][:3]
        variables = variables_of(process)
        if variables.get("TRUECOURSE_HOME") == str(home) and pid.isdigit() and started_at(int(pid)) != started:
            port = variables.get("TRUECOURSE_ENDPOINT_PORT", "")
            orphaned.append(Leftover(process, name, int(port) if port.isdigit() else None))
    return orphaned


def find_by_variable(name: str) -> list[tuple[int, str]]:
    """Processes of this user that have the environment variable: (process id, value)."""
    import psutil

    values = ((process.pid, variables_of(process).get(name)) for process in psutil.process_iter())
    return [(pid, value) for pid, value in values if value is not None]


def command_line_words() -> set[str]:
    """Every word of the readable command lines of this machine's processes."""
    import psutil

    return {word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()}


def open_files() -> set[str]:
    """The paths of all files that this machine's readable processes have open, and their working folders."""
    import psutil

    found = set[str]()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            found |= {file.path for file in process.open_files()} | {process.cwd()}
    return found


def _marked_processes() -> list[tuple[Any, str]]:
    """Every running process (psutil) that has MARK, with its value."""
    import psutil

    marks = ((process, variables_of(process).get(MARK, "")) for process in psutil.process_iter())
    return [(process, mark) for process, mark in marks if mark]


def terminate(processes: list[Any]) -> None:
    """Stop processes (psutil) together: SIGTERM, a second SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            _send(process, number)
        processes = _wait_for_exit(processes, GRACE)
        if not processes:
            break


def started_at(pid: int) -> str | None:
    """The process's start time as an opaque text, to detect a reused pid; None if the process has ended.

    Counted from boot where the system reports it, because the wall clock can change while processes run."""
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
    """The id of this boot; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return ""


def exit_with_parent() -> None:
    """Exit this process of `multiprocessing` once its parent is gone, even if that was killed: it must not write after
    it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, name="exit with parent", daemon=True).start()


def process_tree(pid: int) -> list[Any]:
    """A process (psutil) and its descendants, itself last; empty if it has ended."""
    import psutil

    try:
        root = psutil.Process(pid)
        # A worker's children may have left its process group, so use the tree and not the group.
        return [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return []


def _send(process: Any, number: int) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_for_exit(processes: list[Any], seconds: float) -> list[Any]:
    """Wait for processes to end. Return those that still run."""
    import psutil

    return list(psutil.wait_procs(processes, timeout=seconds)[1])


@contextmanager
def supervised() -> Iterator[list[Child]]:
    """Yield a list for children; stop all of them when the block ends, also on SIGTERM."""
    children: list[Child] = []
    with interrupted_by_signals():
        try:
            yield children
        finally:
            with ignoring_interrupts():
                stop(*children)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block on SIGTERM, SIGHUP and SIGINT. Shells start background processes with SIGINT
    ignored; it is handled here too. Outside the main thread nothing changes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP in the block, so that a second Ctrl-C does not interrupt a shutdown."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # only the main thread can set handlers
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def require_writable(folder: Path) -> None:
    """Create the folder if it does not exist. Raises PlatformError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(folder), hint="set TRUECOURSE_HOME"
        ) from None
    if not writable:
        raise PlatformError(
            "cannot be written", where=str(folder), hint="set TRUECOURSE_HOME to a folder that you can write"
        )
