"""Faults of the soak test: kills of parts and their children, stopped processes, taken ports, and manual edits."""

import json
import os
import random
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from services.process import flow_runs
from services.process.flow_runs import FlowRuns
from services.process.platform_state import Platform, running_platform
from truecourse import processes
from truecourse.addresses import listen, open_url
from truecourse.errors import PlatformError
from truecourse.settings import get_settings

PATIENCE = 120.0
"""Maximum seconds until a part is up again."""
JUMPS = (0, 60, -60, 3600, -3600, 86400, -86400)
"""Offsets of the clock in seconds."""
HELPERS = ("control", "mlflow", "prefect", "worker", "shipper")


@dataclass
class Fault:
    """A fault of the soak test.

    `at`, `until`: seconds since the epoch, from the fault until its target was up again. `seen`: whether the platform
    reported it."""

    kind: str
    target: str
    at: float
    until: float = 0.0
    seen: bool = False


class Faults:
    """Causes random faults one after another.

    `restart`: kills `up` and starts it again. `clock`: the file with the offset of the platform's clock
    (jumping_clock.c); None if the clock does not jump."""

    def __init__(self, chance: random.Random, restart: Callable[[], None], clock: Path | None) -> None:
        self._clock = clock
        self._chance = chance
        self._restart = restart
        self._number = 0
        self._watchers: list[threading.Thread] = []

    def next(self) -> Fault:
        """Cause the next fault. Raises PlatformError if its target is down at the moment."""
        self._number += 1
        if self._number % 18 == 9:
            return self._kill_all()
        if self._number % 6 == 0:
            return self._hit_endpoint()
        if self._clock is not None and self._number % 6 == 2:
            return self._jump()
        kinds = [self._kill_helper] * 5 + [self._kill_flow_run, self._stop_helper, self._take_port, self._edit_mlflow]
        return self._chance.choice(kinds)()

    def end(self) -> None:
        """Reset the clock, and wait until the last targets are up again."""
        if self._clock is not None:
            self._clock.write_text("0")
        for watcher in self._watchers:
            watcher.join(PATIENCE)

    def _kill_helper(self) -> Fault:
        number = self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        part = _part(self._chance.choice(HELPERS))
        fault = Fault(f"{part['part']} gets {number.name}", part["part"], time.time())
        os.kill(part["pid"], number)
        return self._watch_recovery(fault, part)

    def _hit_endpoint(self) -> Fault:
        """Kill the endpoint's first process, or one of its workers."""
        part = _part("endpoint")
        tree = processes.process_tree(part["pid"])
        is_first = self._chance.random() < 0.5 or len(tree) < 2
        victim = part["pid"] if is_first else tree[0].pid
        fault = Fault(f"endpoint {'' if is_first else 'worker '}gets SIGKILL", "endpoint", time.time())
        os.kill(victim, signal.SIGKILL)
        if is_first:
            return self._watch_recovery(fault, part)
        fault.seen = True  # the endpoint's first process restarts the worker

        def watch() -> None:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and not _is_live():
                time.sleep(0.1)
            fault.until = time.time()

        fault.until = time.time() + PATIENCE
        self._start_watcher(watch)
        return fault

    def _kill_all(self) -> Fault:
        fault = Fault("up gets SIGKILL, and is started again", "up", time.time())
        self._restart()
        fault.until = time.time()
        return fault

    def _kill_flow_run(self) -> Fault:
        """Start a flow run, and kill its process shortly after its start."""
        runs = FlowRuns(f"{_platform().prefect}/api")
        deployment = runs.request("GET", "/deployments/name/monitor/monitor")["id"]
        body = {"state": {"type": "SCHEDULED"}}
        run = runs.request("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = flow_runs._engines().get(run)
            if found:
                time.sleep(self._chance.random() * 4)
                processes.terminate([one for pid in found for one in processes.process_tree(pid)])
                return Fault("flow run gets SIGTERM", "flow run", time.time(), time.time())
            time.sleep(0.5)
        raise PlatformError("the run has no process yet", where=run)

    def _stop_helper(self) -> Fault:
        """Suspend a process for half a minute."""
        part = _part(self._chance.choice(("control", "mlflow")))
        fault = Fault(f"{part['part']} gets SIGSTOP", part["part"], time.time())
        tree = processes.process_tree(part["pid"])  # stopping MLflow's first process alone has no effect
        for one in tree:
            one.suspend()

        def resume() -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                fault.seen = fault.seen or _standing(part["part"]) == "silent"
                time.sleep(0.5)
            for one in tree:
                with suppress(psutil.NoSuchProcess):  # another fault, or the supervisor, ended it meanwhile
                    one.resume()
            fault.until = time.time()

        self._start_watcher(resume)
        return fault

    def _take_port(self) -> Fault:
        """Kill the control server, and listen on its port for ten seconds."""
        part = _part("control")
        fault = Fault("control dies and its port is taken", "control", time.time())
        os.kill(part["pid"], signal.SIGKILL)
        taken: socket.socket | None = None
        deadline = time.monotonic() + 2
        while taken is None and time.monotonic() < deadline:
            try:
                taken = listen(get_settings().host, get_settings().control_port)
            except OSError:
                time.sleep(0.01)
        if taken is not None:
            threading.Timer(10, taken.close).start()
        return self._watch_recovery(fault, part)

    def _jump(self) -> Fault:
        """Set the clock of the platform and its children forwards or backwards, by a minute to a day."""
        assert self._clock is not None
        by = self._chance.choice(JUMPS)
        self._clock.write_text(str(by))
        return Fault("clock jumps", "clock", time.time(), time.time())

    def _edit_mlflow(self) -> Fault:
        """Set or delete an alias, change a tag, or delete the version, as a user can in MLflow's UI."""
        problem, edit = get_settings().problem, self._chance.randrange(4)
        if edit == 0:
            _mlflow("POST", "registered-models/alias", name=problem, alias="somebody", version="1")
        elif edit == 1:
            _mlflow("POST", "model-versions/set-tag", name=problem, version="1", key="note", value=str(time.time()))
        elif edit == 2:
            _mlflow("DELETE", "registered-models/alias", name=problem, alias="champion")
        else:
            _mlflow("DELETE", "model-versions/delete", name=problem, version="1")
        return Fault("edit in MLflow", "mlflow edit", time.time(), time.time())

    def _watch_recovery(self, fault: Fault, part: dict[str, Any]) -> Fault:
        """Watch the platform's status until the part is up again."""

        def watch() -> None:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                now = _find(part["part"])
                reported = now is not None and (now["restarts"], now["standing"]) != (part["restarts"], "up")
                fault.seen = fault.seen or reported
                if now and now["standing"] == "up" and now["pid"] != part["pid"]:
                    break
                time.sleep(0.1)
            fault.until = time.time()

        fault.until = time.time() + PATIENCE
        self._start_watcher(watch)
        return fault

    def _start_watcher(self, watch: Callable[[], None]) -> None:
        self._watchers.append(threading.Thread(target=watch, daemon=True))
        self._watchers[-1].start()


def _platform() -> Platform:
    found = running_platform()
    if found is None:
        raise PlatformError("truecourse up is not running")
    return found


def _find(name: str) -> dict[str, Any] | None:
    found = running_platform()
    return next((part for part in found.parts if part["part"] == name), None) if found else None


def _part(name: str) -> dict[str, Any]:
    """A part of the platform. Raises PlatformError if it is not up."""
    found = _find(name)
    if found is None or found["standing"] != "up":
        raise PlatformError("is not up at the moment", where=name)
    return found


def _is_live() -> bool:
    """Whether the endpoint answers. Its socket stays open without workers; a request then waits."""
    try:
        endpoint = _platform().endpoint
        if not endpoint:  # `up` has not started it yet
            return False
        with open_url(urllib.request.Request(f"{endpoint}/livez"), PATIENCE) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, PlatformError):
        return False


def _standing(name: str) -> str:
    found = _find(name)
    return found["standing"] if found else ""


def _mlflow(method: str, path: str, **body: str) -> None:
    url, data = f"{_platform().mlflow}/api/2.0/mlflow/{path}", json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)  # noqa: S310
    try:
        open_url(request, 10).close()
    except OSError as error:
        raise PlatformError(f"MLflow refused the edit: {error}", where=path) from None
