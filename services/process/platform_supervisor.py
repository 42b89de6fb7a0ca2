"""Supervise the parts of a platform: start each, watch it, and restart it when it dies.

Parts fail independently. A part that needs another (`needs`) starts once that one is up.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from truecourse import log_files, processes
from truecourse.errors import ModelError, TruecourseError
from truecourse.processes import Backoff, Child

log = logging.getLogger("truecourse.supervisor")
PERIOD = 0.25
"""Seconds between two checks that a process lives."""
PROBE = 10.0
"""Seconds between two readiness checks of a part that is up."""
START = 300.0
"""Seconds within which a part has to be ready; after that it is stopped and restarted."""
SILENT = 60.0
"""Seconds without an answer after which a part that was up is stopped and restarted."""
WAIT = 5.0
"""Seconds between two attempts to start a part that waits for a model."""

Standing = Literal["starting", "up", "silent", "down", "waiting", "stopped"]
"""`silent`: it lives but does not answer; after SILENT seconds it is restarted. `down`: it died and will be restarted.
`waiting`: not started yet, for a reason that is no fault, such as a missing champion."""


@dataclass(frozen=True)
class Part:
    """One part of the platform.

    `start`: starts its process; raises ModelError while there is no model to serve, another TruecourseError where it
    cannot start. `ready`: whether it is ready to work. `live`: whether it answers at all, even if it cannot work; None
    for a part that answers no requests, which is never restarted for its silence. `kept`: an environment variable;
    descendants with it survive the part."""

    name: str
    start: Callable[[], Child]
    ready: Callable[[Child], bool]
    live: Callable[[Child], bool] | None = None
    needs: str = ""
    kept: str = ""


@dataclass
class State:
    """State of a part: since when (UTC), restarts, why it is not up, and its `last_line` of its log."""

    standing: Standing = "waiting"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    restarts: int = 0
    cause: str = ""
    pid: int | None = None
    log: str = ""
    last_line: str = ""

    def to_document(self, name: str) -> dict[str, Any]:
        """The JSON document of the state."""
        return {"part": name, **vars(self), "since": self.since.isoformat(timespec="seconds")}


class Supervisor:
    """Runs parts in threads. `on_change`: called with the states of all parts whenever one changes."""

    def __init__(self, parts: Sequence[Part], on_change: Callable[[list[dict[str, Any]]], None]) -> None:
        self._parts = parts
        self._on_change = on_change
        self._states = {part.name: State() for part in parts}
        self._needs = {part.name: part.needs for part in parts}
        self._children: dict[str, Child] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(part,), name=part.name) for part in parts]

    def start(self) -> None:
        """Start every part; return at once."""
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def states(self) -> list[dict[str, Any]]:
        with self._lock:
            return [state.to_document(name) for name, state in self._states.items()]

    def standing(self, name: str) -> Standing:
        with self._lock:
            return self._states[name].standing

    def first_outcome(self, name: str) -> State | None:
        """The part's state once its first start succeeded or failed; None before that."""
        with self._lock:
            state, needs = self._states[name], self._needs[name]
            if state.standing == "waiting" and needs and self._states[needs].standing in ("starting", "up"):
                return None
            return state if state.standing != "starting" and (state.standing != "waiting" or state.cause) else None

    def stop(self, *names: str) -> None:
        """Stop the named parts, or all, and restart none."""
        self._over.set()
        chosen = names or tuple(self._states)
        for _ in range(2):  # again for a child that a thread was just starting
            with self._lock:
                doomed = [child for name, child in self._children.items() if name in chosen]
            processes.stop(*doomed)
            for thread in self._threads:
                thread.join(processes.GRACE if thread.name in chosen and thread.is_alive() else 0)
        for name in chosen:
            self._set(name, "stopped")

    def _keep(self, part: Part) -> None:
        backoff = Backoff()
        while not self._over.is_set():
            began = time.monotonic()
            try:
                cause = self._run_once(part)
            except ModelError as error:
                self._set(part.name, "waiting", error.what)
                self._over.wait(WAIT)
                continue
            except TruecourseError as error:
                cause = f"{error.where}: {error.what}" if error.where else error.what
            except Exception as error:
                log.exception("supervising %s failed", part.name)
                cause = f"{type(error).__name__}: {error}"
            if self._over.is_set():
                return
            pause = backoff.pause(time.monotonic() - began)
            self._set(part.name, "down", cause)
            log.warning("%s is down: %s; restart in %.0f s", part.name, cause.splitlines()[0], pause)
            self._over.wait(pause)
            with self._lock:
                self._states[part.name].restarts += 1

    def _run_once(self, part: Part) -> str:
        """Start the part and watch it until it ends; why it ended."""
        while part.needs and self.standing(part.needs) != "up":
            self._set(part.name, "waiting", f"needs {part.needs}, which is {self.standing(part.needs)}")
            if self._over.wait(PERIOD):
                return ""
        child = part.start()
        with self._lock:
            self._children[part.name] = child
        if self._over.is_set():
            processes.stop(child)
            return ""
        self._set(part.name, "starting", child=child)
        try:
            if not self._wait_ready(part, child):
                return self._ended(child) if not child.alive else f"is not ready after {START:.0f} s"
            self._set(part.name, "up", child=child)
            return self._watch(part, child) or self._ended(child)
        finally:
            if not self._over.is_set():
                self._clear(part, child)

    def _wait_ready(self, part: Part, child: Child) -> bool:
        deadline, pause = time.monotonic() + START, 0.1
        while child.alive and time.monotonic() < deadline:
            if part.ready(child):
                return True
            if self._over.wait(pause):
                return False
            pause = min(pause * 1.2, 2.0)
        return False

    def _watch(self, part: Part, child: Child) -> str:
        """Watch until the part ends or is silent for too long: rotate its log, and check now and then that it answers.

        Returns why a living part has to be restarted; empty if it ended."""
        answered = time.monotonic()
        due = answered + PROBE
        while child.alive and not self._over.wait(PERIOD):
            if time.monotonic() < due:
                continue
            log_files.rotate(child.log)
            answers = part.ready(child)
            if child.alive:
                self._set(part.name, "up" if answers else "silent", "" if answers else "it does not answer", child)
            now = time.monotonic()
            if answers or part.live is None or part.live(child):
                answered = now
            elif now - answered > SILENT and child.alive:
                return f"did not answer for {now - answered:.0f} s"
            due = time.monotonic() + PROBE
        return ""

    def _clear(self, part: Part, child: Child) -> None:
        """End descendants of a dead part: a server's worker would keep its port."""
        if child.alive:
            processes.stop(child)
        processes.terminate(processes.orphans(child, part.kept))

    @staticmethod
    def _ended(child: Child) -> str:
        status = child.process.poll()
        if status is None:
            return ""
        return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def _set(self, name: str, standing: Standing, cause: str = "", child: Child | None = None) -> None:
        with self._lock:
            state = self._states[name]
            changed = (state.standing, state.cause) != (standing, cause)
            if state.standing != standing:
                state.since = datetime.now(UTC)
            state.standing, state.cause = standing, cause
            if child is not None:
                state.pid, state.log = child.process.pid, str(child.log)
            if standing in ("down", "silent", "stopped"):
                last = self._children.get(name)
                state.last_line = last.tail(1)[:400] if last else ""
                state.pid = state.pid if standing == "silent" else None
            if changed:
                with suppress(OSError):  # a full disk: the next change is written
                    self._on_change(self.states())
