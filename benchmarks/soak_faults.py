"""The faults of a soak: kills of every part and of what they started, stops, taken ports, and edits by hand."""

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
from services.process.platform import Platform, running_platform
from truecourse import processes
from truecourse.addresses import listen, open_url
from truecourse.errors import PlatformError
from truecourse.settings import get_settings

PATIENCE = 120.0
"""Seconds that a part has for coming back before the next fault."""
JUMPS = (0, 60, -60, 3600, -3600, 86400, -86400)
"""Seconds from the right time."""
HELPERS = ("control", "mlflow", "prefect", "worker", "shipper")


@dataclass
class Fault:
    """`at`, `until`: seconds since the epoch, from the fault until what it hit was up again. `seen`: whether the
    platform reported it."""

    kind: str
    target: str
    at: float
    until: float = 0.0
    seen: bool = False


class Faults:
    """One after another, by chance. `restart`: kills `up` and starts it again. `clock`: the file that the
    platform's clock reads its jump from (jumping_clock.c); None where the clock stays as it is."""

    def __init__(self, chance: random.Random, restart: Callable[[], None], clock: Path | None) -> None:
        self._clock = clock
        self._chance = chance
        self._restart = restart
        self._number = 0
        self._watchers: list[threading.Thread] = []

    def next(self) -> Fault:
        """Do the next one. Raises PlatformError where there is nothing to hit just now."""
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
        """Wait until what was hit last is up again; the clock is right from now on."""
        if self._clock is not None:
            self._clock.write_text("0")
        for watcher in self._watchers:
            watcher.join(PATIENCE)

    def _kill_helper(self) -> Fault:
        number = self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        part = _part(self._chance.choice(HELPERS))
        fault = Fault(f"{part['part']} gets {number.name}", part["part"], time.time())
        os.kill(part["pid"], number)
        return self._watched(fault, part)

    def _hit_endpoint(self) -> Fault:
        """Its first process, or one that answers."""
        part = _part("endpoint")
        family = processes.process_tree(part["pid"])
        whole = self._chance.random() < 0.5 or len(family) < 2
        victim = part["pid"] if whole else family[0].pid
        fault = Fault(f"endpoint {'' if whole else 'worker '}gets SIGKILL", "endpoint", time.time())
        os.kill(victim, signal.SIGKILL)
        if whole:
            return self._watched(fault, part)
        fault.seen = True  # the endpoint's first process sees to it

        def watch() -> None:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and not _is_live():
                time.sleep(0.1)
            fault.until = time.time()

        fault.until = time.time() + PATIENCE
        self._begin(watch)
        return fault

    def _kill_all(self) -> Fault:
        fault = Fault("up gets SIGKILL, and is started again", "up", time.time())
        self._restart()
        fault.until = time.time()
        return fault

    def _kill_flow_run(self) -> Fault:
        """Start one, and kill its process as soon as it has one."""
        runs = FlowRuns(f"{_platform().prefect}/api")
        deployment = runs.ask("GET", "/deployments/name/monitor/monitor")["id"]
        body = {"state": {"type": "SCHEDULED"}}
        run = runs.ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
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
        """A process that lives and does nothing, for half a minute."""
        part = _part(self._chance.choice(("control", "mlflow")))
        fault = Fault(f"{part['part']} gets SIGSTOP", part["part"], time.time())
        family = processes.process_tree(part["pid"])  # MLflow's first process alone answers nothing
        for one in family:
            one.suspend()

        def go_on() -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                fault.seen = fault.seen or _standing(part["part"]) == "silent"
                time.sleep(0.5)
            for one in family:
                with suppress(psutil.NoSuchProcess):  # another fault, or the supervisor, has ended it meanwhile
                    one.resume()
            fault.until = time.time()

        self._begin(go_on)
        return fault

    def _take_port(self) -> Fault:
        """The control page dies, and somebody else listens on its port for ten seconds."""
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
        return self._watched(fault, part)

    def _jump(self) -> Fault:
        """Of the clock of the platform and all that it starts, forwards or backwards, by a minute to a day."""
        assert self._clock is not None
        by = self._chance.choice(JUMPS)
        self._clock.write_text(str(by))
        return Fault("clock jumps", "clock", time.time(), time.time())

    def _edit_mlflow(self) -> Fault:
        """An alias set or deleted, a tag changed, or the version deleted, as anybody can do it in MLflow's UI."""
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

    def _watched(self, fault: Fault, part: dict[str, Any]) -> Fault:
        """Look at what the platform says until the part is up again."""

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
        self._begin(watch)
        return fault

    def _begin(self, watch: Callable[[], None]) -> None:
        self._watchers.append(threading.Thread(target=watch, daemon=True))
        self._watchers[-1].start()


def _platform() -> Platform:
    found = running_platform()
    if found is None:
        raise PlatformError("truecourse up does not run")
    return found


def _find(name: str) -> dict[str, Any] | None:
    found = running_platform()
    return next((part for part in found.parts if part["part"] == name), None) if found else None


def _part(name: str) -> dict[str, Any]:
    """A part that is up. Raises PlatformError where it is not."""
    found = _find(name)
    if found is None or found["standing"] != "up":
        raise PlatformError("is not up just now", where=name)
    return found


def _is_live() -> bool:
    """Whether the endpoint answers. Its socket stays open while no worker is there: a request then waits."""
    try:
        with open_url(urllib.request.Request(f"{_platform().endpoint}/livez"), PATIENCE) as answer:  # noqa: S310
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
        raise PlatformError(f"MLflow does not take the edit: {error}", where=path) from None
