"""Soak test of `truecourse up` under faults: every ten seconds something is killed, stopped or edited, under load.

The test runs in its own home with a problem written by `init`. Proxy variables point to a closed port. With a C
compiler, the platform's clock jumps too. At the end it counts answered and lost predictions and stuck flow runs, and
checks that `status` was correct.
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row
from benchmarks.soak_faults import Fault, Faults
from services.process.flow_runs import FlowRuns
from services.process.platform_state import last_platform
from truecourse import processes
from truecourse.addresses import free_port
from truecourse.client import Client
from truecourse.errors import PlatformError, RequestError
from truecourse.settings import child_environment, get_settings, override_settings

NAME = "soak"
EVERY = 10.0
"""Seconds between faults."""
CALM = 180.0
"""Maximum seconds until everything is up after the last fault."""
SYNC = 2.0
"""Seconds before a kill of the endpoint in which its log may not be synced yet; generous."""
NOWHERE = "http://127.0.0.1:9"
PLANS = ["basic", "plus", "max"]
PROXIES = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "ALL_PROXY": NOWHERE}


Command = tuple[float, float, str]
"""Start and end of a command, and its error; empty if it succeeded."""


@dataclass
class ClientLog:
    """Requests of one client: time and prediction id of each answered one, time and error of each failed one."""

    answered: list[tuple[float, str]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)


def rows(quick: bool, minutes: float = 30) -> list[Row]:
    """Run the soak test with `minutes` of faults; one minute with `quick`."""
    folder = Path(tempfile.mkdtemp(prefix="truecourse-soak-"))
    host = get_settings().host
    ports = {f"{part}_port": free_port(host) for part in ("prefect", "mlflow", "control", "endpoint")}
    try:
        with override_settings(home=folder / "home", problems=folder / "problems", problem=NAME, storage="", **ports):
            _prepare(folder)
            return _Soak(1 if quick else minutes).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path) -> None:
    """Write a problem from a file with `init`, and train its champion."""
    chance = np.random.default_rng(7)
    lines = ["id,age,plan,calls,churned"]
    for number in range(3000):
        age, plan, calls = chance.integers(18, 80), chance.choice(PLANS), chance.integers(0, 40)
        churned = int(chance.random() < 1 / (1 + 2.7 ** (2.5 - calls / 8 + age / 60 - (plan == PLANS[0]))))
        lines.append(f"c{number},{age},{plan},{calls},{churned}")
    (folder / "problems").mkdir(parents=True)
    (folder / "churn.csv").write_text("\n".join(lines) + "\n")
    _truecourse("init", NAME, "--data", str(folder / "churn.csv"), "--label", "churned")
    _truecourse("run", "lifecycle")


def _truecourse(*arguments: str) -> dict[str, Any]:
    """Run a command; returns its JSON output. Raises PlatformError if it fails."""
    process = subprocess.run(  # noqa: S603
        [_program(), *arguments, "--json"], env=child_environment(**PROXIES), capture_output=True, text=True
    )
    if process.returncode:
        raise PlatformError(
            f"failed:\n{process.stdout[-1000:]}\n{process.stderr[-2000:]}", where=f"truecourse {arguments[0]}"
        )
    document: dict[str, Any] = json.loads(process.stdout)
    return document


def _program() -> str:
    return str(Path(sys.executable).parent / "truecourse")


def _clock_environment(clock: Path) -> dict[str, str]:
    """Environment variables that make a process and its children add the offset in a file to their clock."""
    library = clock.with_name("jumping_clock.so")
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)  # noqa: S603, S607
    return {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock)}


class _Soak:
    def __init__(self, minutes: float) -> None:
        self._clock = get_settings().home / "clock" if shutil.which("cc") else None
        self._environment = PROXIES | (_clock_environment(self._clock) if self._clock else {})
        self._minutes = minutes
        self._url = f"http://127.0.0.1:{get_settings().endpoint_port}"
        self._over = threading.Event()
        self._faults: list[Fault] = []
        self._log = get_settings().home / "logs" / "soak-up.log"
        self._up: subprocess.Popen[bytes] | None = None

    def run(self) -> list[Row]:
        self._start()
        requests = [ClientLog(), ClientLog()]
        clients = [threading.Thread(target=self._predict, args=(one,), daemon=True) for one in requests]
        try:
            for client in clients:
                client.start()
            with self._commands() as commands:
                self._disturb()
                calm = self._wait_until_up()
            self._over.set()
            for client in clients:
                client.join(30)
            stuck, slots, wrong_entries = self._state()
            failed = self._failed_runs()
        finally:
            self._over.set()
            self._stop()
        left = len(processes.leftovers(get_settings().home))
        all_requests = ClientLog(
            [a for one in requests for a in one.answered], [f for one in requests for f in one.failed]
        )
        return self._rows(all_requests, calm, stuck, slots, wrong_entries, left, commands, failed)

    def _start(self) -> None:
        if self._clock is not None:
            self._clock.write_text("0")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._up = subprocess.Popen(  # noqa: S603
                [_program(), "up"],
                env=child_environment(**self._environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 600
        while not self._all_up():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise PlatformError(f"does not start\n{self._log.read_text()[-3000:]}", where="truecourse up")
            time.sleep(0.5)

    def _stop(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self._up.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._up.wait(90)
        processes.terminate([one.process for one in processes.leftovers(get_settings().home)])

    def _all_up(self) -> bool:
        platform = last_platform()
        up = [part["standing"] == "up" for part in platform.parts] if platform and platform.alive else []
        return bool(up) and all(up)

    def _predict(self, into: ClientLog) -> None:
        with Client(self._url, timeout=10, tries=1, idle_seconds=0) as client:  # each request on a new connection
            self._predict_with(client, into)

    def _predict_with(self, client: Client, into: ClientLog) -> None:
        for number in itertools.count():
            if self._over.is_set():
                return
            row = {"id": f"s{number}", "age": 44, "plan": PLANS[number % len(PLANS)], "calls": number % 40}
            sent = time.time()
            try:
                into.answered.append((time.time(), client.predict(row).predictions[0].prediction_id))
            except (PlatformError, RequestError) as error:
                into.failed.append((sent, error.what[:120]))
            time.sleep(0.05)

    @contextmanager
    def _commands(self) -> Iterator[list[Command]]:
        """Start flows by hand meanwhile; none of them may be marked as dead."""
        ended: list[Command] = []

        def run() -> None:
            while not self._over.wait(45):
                platform = last_platform()
                if platform is None or not platform.is_up("prefect"):
                    continue
                started = time.time()
                try:
                    _truecourse("run", "ship")
                    ended.append((started, time.time(), ""))
                except PlatformError as error:
                    ended.append((started, time.time(), error.what[-300:]))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield ended

    def _disturb(self) -> None:
        faults = Faults(random.Random(7), self._restart, self._clock)  # noqa: S311
        until = time.monotonic() + self._minutes * 60
        while time.monotonic() < until:
            started = time.monotonic()
            with suppress(PlatformError, ProcessLookupError):  # the target is down at the moment
                self._faults.append(faults.next())
            self._over.wait(max(0.0, EVERY - (time.monotonic() - started)))
        faults.end()

    def _restart(self) -> None:
        """Kill `up` itself, like the out-of-memory killer, and start it again: it ends the processes that it left."""
        assert self._up is not None
        self._up.kill()
        self._up.wait(30)
        time.sleep(2)
        self._start()

    def _wait_until_up(self) -> float:
        """Seconds until everything is up after the last fault; infinite if it takes longer than CALM."""
        started = time.monotonic()
        while time.monotonic() - started < CALM:
            if self._all_up():
                time.sleep(35)  # two reconciliations; a run that waited for a slot has started
                return time.monotonic() - started - 35 if self._all_up() else float("inf")
            time.sleep(0.5)
        return float("inf")

    def _state(self) -> tuple[int, int, int]:
        """Numbers of stuck or dead flow runs, of wrong concurrency slots, and of wrong entries of `status`."""
        status = _truecourse("status")
        runs = FlowRuns(f"{status['platform']['prefect']}/api")
        freed = runs.reconcile("truecourse")
        waiting = runs.stuck(datetime.now(UTC))
        for line in (*(one.sentence for one in waiting), *(f"{run['name']} is dead" for run in freed.runs)):
            sys.stderr.write(f"soak: {line}\n")
        stuck = len(waiting) + len(freed.runs)
        limits, held = runs.limits(), runs.active()
        holders = Counter(run["deployment_id"] for run in held)
        slots = sum(abs(limit["active_slots"] - holders[name]) for name, limit in limits.items())
        wrong_entries = sum(not _is_true(part) for part in status["platform"]["parts"])
        wrong_entries += int((status["endpoint"] or {}).get("problem") != NAME)
        return stuck, slots, wrong_entries

    def _failed_runs(self) -> list[str]:
        """Messages of failed flow runs; a killed process does not count as failed."""
        platform = last_platform()
        runs = FlowRuns(f"{platform.prefect}/api").runs(state={"type": {"any_": ["FAILED"]}}) if platform else []
        return [f"{run['name']}: {(run['state'].get('message') or '').splitlines()[:1]}" for run in runs]

    def _rows(
        self,
        requests: ClientLog,
        calm: float,
        stuck: int,
        slots: int,
        wrong_entries: int,
        left: int,
        commands: list[Command],
        failed: list[str],
    ) -> list[Row]:
        kinds = Counter(fault.kind for fault in self._faults)
        excused = [fault for fault in self._faults if fault.target in ("endpoint", "up")]
        unexcused = [one for one in requests.failed if not any(f.at - 1 <= one[0] <= f.until + 1 for f in excused)]
        lost, unsynced = self._lost(requests, excused)
        killed = [fault for fault in self._faults if fault.target in ("prefect", "up")]
        wrong = [
            why for started, ended, why in commands if why and not any(started - 60 < f.at < ended for f in killed)
        ]
        reportable = [fault for fault in self._faults if fault.target not in ("up", "flow run", "mlflow edit", "clock")]
        unseen = [
            f"not in status: {fault.kind}, {fault.until - fault.at:.1f} s" for fault in reportable if not fault.seen
        ]
        for line in (*self._describe_failures(unexcused)[:6], *wrong[:3], *failed[:10], *unseen):
            sys.stderr.write(f"soak: {line}\n")
        by_kind = [Row(what=f"faults: {kind}", value=count, unit="") for kind, count in sorted(kinds.items())]
        return [
            *by_kind,
            Row(what="predictions answered", value=len(requests.answered), unit="", limit=1, sense="at least"),
            Row(
                what="not answered while the endpoint was killed", value=len(requests.failed) - len(unexcused), unit=""
            ),
            Row(what="not answered at any other time", value=len(unexcused), unit="", limit=0),
            Row(what="answered, but missing in the log", value=lost, unit="", limit=0),
            Row(what="answered just before a kill, log not synced yet", value=unsynced, unit=""),
            Row(what="faults that status did not report", value=len(unseen), unit="", limit=0),
            Row(what="seconds until all is up after the last fault", value=calm, unit="s", limit=CALM),
            Row(what="flow runs stuck or dead", value=stuck, unit="", limit=0),
            Row(what="flow runs that failed", value=len(failed), unit=""),
            Row(what="concurrency slots without a run, or missing", value=slots, unit="", limit=0),
            Row(what="wrong entries of status", value=wrong_entries, unit="", limit=0),
            Row(
                what="flows started by hand that were disturbed", value=len(wrong), unit=f"of {len(commands)}", limit=0
            ),
            Row(what="processes left after Ctrl-C", value=left, unit="", limit=0),
        ]

    def _describe_failures(self, failed: list[tuple[float, str]]) -> list[str]:
        """Errors of failed predictions, each with the fault before it."""
        lines = []
        for at, what in failed:
            before = max((f for f in self._faults if f.at <= at), key=lambda fault: fault.at, default=None)
            lines.append(f"{what}, {at - before.at:.1f} s after: {before.kind}" if before else what)
        return lines

    def _lost(self, requests: ClientLog, excused: list[Fault]) -> tuple[int, int]:
        """Numbers of answered predictions missing in the log: in general, and shortly before a kill of the endpoint."""
        from truecourse.serving.log_shipping import ship
        from truecourse.serving.prediction_log import log_table
        from truecourse.storage.delta_tables import Tables

        ship(NAME)
        tables = Tables()
        reference = tables.version(log_table(NAME))
        logged = set(tables.read(reference, ["prediction_id"])["prediction_id"].to_pylist()) if reference else set()
        missing = [at for at, one in requests.answered if one not in logged]
        near = [at for at in missing if any(fault.at - SYNC <= at <= fault.until for fault in excused)]
        return len(missing) - len(near), len(near)


def _is_true(part: dict[str, Any]) -> bool:
    """Whether the state of a part's process matches `status`."""
    alive = part["pid"] is not None and processes.started_at(part["pid"]) is not None
    return alive if part["standing"] in ("up", "silent", "starting") else not alive
