"""Find and free flow runs whose process is dead, and find stuck runs, over the Prefect server's HTTP API.

The server stores a run's last reported state and nothing of its process: a killed run stays `Running` and keeps its
deployment's concurrency slot. Each flow writes its process to `<home>/flowruns/<run id>` (tasks/process.py); a worker's
process has the run's id in its environment.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from services.process.prefect_client import PAGE, PrefectClient
from truecourse import processes
from truecourse.compat import prefect_variables
from truecourse.errors import PlatformError
from truecourse.monitoring.health.stuck_runs import StuckRun, find_stuck
from truecourse.settings import get_settings
from truecourse.wording import counted

log = logging.getLogger("truecourse.flowruns")
HELD = ("PENDING", "RUNNING", "CANCELLING")
"""States in which a run has a process and holds its deployment's concurrency slot."""
STARTS = timedelta(seconds=90)
"""A worker starts a run's process within this time of taking the run."""
TAKEN = timedelta(minutes=1)
"""A worker takes a run within this time of its scheduled start, if it can."""
SILENT = timedelta(minutes=15)
"""A run on another machine without a heartbeat for this long is dead: five heartbeat intervals."""

Run = dict[str, Any]
Life = Literal["alive", "dead", "unknown"]


@dataclass
class ReconcileResult:
    """The changes of a reconciliation: runs that were marked, and the numbers of freed slots and of cancelled runs that
    had been missed."""

    runs: list[Run] = field(default_factory=list)
    slots: int = 0
    missed: int = 0


class FlowRuns:
    """The runs of one Prefect server. `api`: its URL, with `/api`.

    Every method raises PlatformError if the server does not answer."""

    def __init__(self, api: str) -> None:
        self.request = PrefectClient(api, seconds=10).request
        self._surplus: dict[str, int] = {}
        self._seen: dict[str, tuple[Any, float]] = {}

    def runs(self, **filters: Any) -> list[Run]:
        """One page of runs that match Prefect's filters (of `flow_runs`)."""
        body = {"flow_runs": filters, "sort": "EXPECTED_START_TIME_DESC", "limit": PAGE}
        found: list[Run] = self.request("POST", "/flow_runs/filter", body)
        return found

    def active(self) -> list[Run]:
        """Runs that should have a process, and runs that wait for a person's input."""
        found = self.runs(state={"type": {"any_": [*HELD, "PAUSED"]}})
        return [run for run in found if run["state_type"] in HELD or run["state_name"] == "Paused"]

    def find(self, name: str) -> Run:
        """Find a run by its id or name. Raises PlatformError if there is none, or several."""
        found = self.runs(id={"any_": [name]}) if _is_id(name) else self.runs(name={"any_": [name]})
        if len(found) != 1:
            what = f"there are {len(found)} flow runs of that name" if found else "there is no such flow run"
            raise PlatformError(what, where=name, hint="`truecourse status` names the runs that are stuck, by their id")
        return found[0]

    def reconcile(self, pool: str, *, starting: bool = False) -> ReconcileResult:
        """Mark runs whose process is dead as crashed (as cancelled if they were being cancelled), free their slots, and
        cancel missed runs.

        `pool`: the work pool whose worker is on this machine. `starting`: that worker does not run yet, so every run
        that it had taken without a process is dead."""
        limits = self.limits()
        held, freed = self.active(), ReconcileResult()
        if held:
            alone = self._is_only_worker(pool)
            engines = _engines()
            for run in held:
                life, why = self._life(run, pool, engines, alone=alone, starting=starting)
                if life == "dead" and self.try_mark(run, f"its process is gone: {why}"):
                    freed.runs.append(run)
        _remove_notes({run["id"] for run in held})
        self._seen = {name: one for name, one in self._seen.items() if any(name.startswith(run["id"]) for run in held)}
        freed.slots = self._free_slots(limits, held, freed.runs, at_once=starting)
        now = datetime.now(UTC)
        freed.missed = self.skip_missed(pool, now - (timedelta(0) if starting else TAKEN))
        self._reschedule(now)
        return freed

    def try_mark(self, run: Run, why: str) -> bool:
        """mark() without raising: for minutes the server refuses to end a run whose deployment was deleted."""
        try:
            self.mark(run, why)
        except PlatformError as error:
            log.warning("the flow run %s cannot be marked yet: %s", run["name"], error.what)
            return False
        return True

    def mark(self, run: Run, why: str) -> None:
        """End a run in the server: Cancelled if it was being cancelled, else Crashed. This frees its slot."""
        cancelled = run["state_type"] == "CANCELLING"
        state = {"type": "CANCELLED", "name": "Cancelled"} if cancelled else {"type": "CRASHED", "name": "Crashed"}
        body = {"state": {**state, "message": f"truecourse: {why}"}, "force": True}
        self.request("POST", f"/flow_runs/{run['id']}/set_state", body)
        wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}, "task_runs": {"state": {"type": {"any_": list(HELD)}}}}
        for task in self.request("POST", "/task_runs/filter", wanted | {"limit": PAGE}):
            self.request("POST", f"/task_runs/{task['id']}/set_state", body)
        log.warning("the flow run %s (%s) is marked %s: %s", run["name"], run["id"], state["name"].lower(), why)

    def release(self, run: Run) -> str:
        """End a run's process on this machine, mark the run and free its slot; a sentence about what was done.

        Raises PlatformError for a run that has ended, and for one that runs or may run on another machine."""
        if run["state_type"] == "SCHEDULED":
            self.request("POST", f"/flow_runs/{run['id']}/set_state", _cancelled("released by hand"))
            return "it had not started, and is cancelled"
        if run["state_type"] not in (*HELD, "PAUSED"):
            raise PlatformError(f"the flow run has ended: {run['state_name']}", where=run["name"])
        noted = _noted_pid(run["id"])
        doomed = {*([noted] if noted else []), *_engines().get(run["id"], [])}
        processes.terminate([process for pid in doomed for process in processes.process_tree(pid)])
        self.mark(run, "released by hand")
        ended = f"{counted(len(doomed), 'process')} ended, " if doomed else ""
        return f"{ended}the run is marked, and its slot is free"

    def skip_missed(self, pool: str, now: datetime) -> int:
        """Cancel scheduled runs of this pool that were due before `now` and were missed; their number.

        Runs are missed while no worker runs, while the machine sleeps, when its clock is set forwards, and while an
        earlier run of their flow takes longer than their schedule's interval.

        The newest run of each deployment and parameters stays: flows continue where the last run ended, so it does the
        work of all that were missed."""
        skipped = 0
        while True:
            late = self._due(now)
            newest: set[tuple[str, str]] = set()
            missed = []
            for run in late:  # the newest come first
                if run["work_pool_name"] == pool and run["auto_scheduled"]:
                    key = run["deployment_id"], json.dumps(run["parameters"], sort_keys=True)
                    missed += [run["id"]] if key in newest else []
                    newest.add(key)
            for id in missed:
                self.request("POST", f"/flow_runs/{id}/set_state", _cancelled("missed; a newer run does its work"))
            skipped += len(missed)
            if len(late) < PAGE or not missed:
                break
        if skipped:
            log.warning("%s missed; the newest of each flow does their work", counted(skipped, "scheduled run"))
        return skipped

    def _reschedule(self, now: datetime) -> None:
        """Let runs that are due start now if they wait for a time of a clock that has since been set back.

        Prefect gives a run that found no free slot another start time, half a minute later by the clock of that
        moment."""
        for run in self._due(now):
            if _moment(run["state"]["timestamp"]) > now + TAKEN:
                details = {"scheduled_time": now.isoformat()}
                state = {"type": "SCHEDULED", "name": "Scheduled", "state_details": details}
                self.request("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
                log.warning(
                    "the flow run %s waited for a time of a clock that was set back; it is due now", run["name"]
                )

    def _due(self, now: datetime) -> list[Run]:
        """One page of runs that should have started before `now`, the newest first."""
        return self.runs(state={"type": {"any_": ["SCHEDULED"]}}, expected_start_time={"before_": now.isoformat()})

    def stuck(self, now: datetime) -> list[StuckRun]:
        """Runs that wait for too long, or run far longer than usual."""
        waiting = self._due(now)
        held = self.active()
        if not waiting and not held:
            return []
        flows = {run["flow_id"] for run in [*waiting, *held]}
        wanted = {"flows": {"id": {"any_": sorted(flows)}}, "limit": PAGE}
        names = {flow["id"]: flow["name"] for flow in self.request("POST", "/flows/filter", wanted)}
        past = {flow: self._past_run_times(flow) for flow in {run["flow_id"] for run in held}}
        return find_stuck(waiting, held, names, past, now)

    def _past_run_times(self, flow: str) -> list[float]:
        """Run times in seconds of the flow's newest successful runs."""
        body = {"flows": {"id": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        found = self.request("POST", "/flow_runs/filter", body | {"sort": "EXPECTED_START_TIME_DESC", "limit": 30})
        return [float(run["total_run_time"]) for run in found]

    def _life(
        self, run: Run, pool: str, engines: dict[str, list[int]], *, alone: bool, starting: bool
    ) -> tuple[Life, str]:
        noted = _noted_pid(run["id"], living=False)
        if noted is not None:
            return ("alive", "") if _noted_pid(run["id"]) else ("dead", f"process {noted} of this machine")
        if run["id"] in engines:
            return "alive", ""
        if run["work_pool_name"] == pool and alone and run["state_type"] in HELD:
            if starting or self._unchanged(run["id"], run["state"]["timestamp"]) > STARTS:
                return "dead", "no process of this machine runs it"
            return "unknown", ""
        return self._by_heartbeat(run)

    def _by_heartbeat(self, run: Run) -> tuple[Life, str]:
        """Infer the state of a run without a process on this machine by its heartbeats.

        `unknown` for a run that never sent one; dead if none has arrived for SILENT while this process watched."""
        now, week = datetime.now(UTC), timedelta(days=7)  # the other machine's clock may differ
        wanted: dict[str, Any] = {
            "event": {"name": [prefect_variables.HEARTBEAT]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            "occurred": {"since": (now - week).isoformat(), "until": (now + week).isoformat()},
            "order": "DESC",
        }
        found = self.request("POST", "/events/filter", {"filter": wanted, "limit": 1})
        if not found["events"]:
            return "unknown", ""
        last = found["events"][0]
        dead = self._unchanged(f"{run['id']} heartbeats", (found["total"], last["id"])) > SILENT
        return (
            ("dead", f"its last heartbeat was at {_moment(last['occurred']):%Y-%m-%d %H:%M} UTC")
            if dead
            else ("alive", "")
        )

    def _unchanged(self, name: str, value: Any) -> timedelta:
        """How long a value of the server has been the same, by this process's monotonic clock.

        Times in the server's records may be of a clock that was set meanwhile, or of another machine's."""
        now = time.monotonic()
        if name not in self._seen or self._seen[name][0] != value:
            self._seen[name] = (value, now)
        return timedelta(seconds=now - self._seen[name][1])

    def _is_only_worker(self, pool: str) -> bool:
        """Whether no worker but this machine's takes runs of the pool."""
        try:
            workers = self.request("POST", f"/work_pools/{pool}/workers/filter", {})
        except PlatformError:  # the pool does not exist yet
            return True
        return all(one["name"] == worker_name() or one["status"] != "ONLINE" for one in workers)

    def limits(self) -> dict[str, Run]:
        """The concurrency limit of each deployment that has one, by the deployment's id."""
        found = self.request("POST", "/v2/concurrency_limits/filter", {"limit": PAGE})
        named = {limit["name"].partition(":"): limit for limit in found}
        return {rest: limit for (kind, _, rest), limit in named.items() if kind == "deployment"}

    def _free_slots(self, limits: dict[str, Run], held: Iterable[Run], marked: list[Run], *, at_once: bool) -> int:
        """Free slots that no run holds; their number.

        A check may fall between a run and its slot: unless `at_once`, only slots that were surplus at the last check
        too are freed."""
        gone, freed, surplus = {run["id"] for run in marked}, 0, {}
        holders = [run["deployment_id"] for run in held if run["id"] not in gone and run["state_type"] in HELD]
        released = [run["deployment_id"] for run in marked]
        for deployment, limit in limits.items():
            taken = max(0, limit["active_slots"] - released.count(deployment))
            more = taken - holders.count(deployment)
            if more > 0 and (at_once or self._surplus.get(deployment) == more):
                left = holders.count(deployment)
                self.request("PATCH", f"/v2/concurrency_limits/{limit['id']}", {"active_slots": left})
                freed += more
            elif more > 0:
                surplus[deployment] = more
        self._surplus = surplus
        return freed


def worker_name() -> str:
    """The name of the worker that `truecourse up` starts on this machine."""
    return f"truecourse-{socket.gethostname()}"


def notes_folder() -> Path:
    return get_settings().home / "flowruns"


def write_note(run_id: str) -> None:
    """Record that this process executes the flow run."""
    notes_folder().mkdir(parents=True, exist_ok=True)
    (notes_folder() / run_id).write_text(f"{os.getpid()} {processes.started_at(os.getpid())}")


def noted_processes() -> set[int]:
    """The pids of other running processes on this machine that run, or ran, a flow of this home."""
    folder = notes_folder()
    runs = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return {pid for run in runs if (pid := _noted_pid(run)) is not None and pid != os.getpid()}


def _remove_notes(held: set[str]) -> None:
    """Remove the notes of dead processes, except those of runs that are still to be marked."""
    for file in notes_folder().glob("*"):
        if file.name not in held and _noted_pid(file.name) is None:
            file.unlink(missing_ok=True)


def _noted_pid(run_id: str, *, living: bool = True) -> int | None:
    """The pid that is noted for the run; None if there is none, or if `living` and the process is dead."""
    try:
        pid, _, started = (notes_folder() / run_id).read_text().partition(" ")
    except OSError:
        return None
    if not pid.isdigit() or (living and processes.started_at(int(pid)) != started):
        return None
    return int(pid)


def _engines() -> dict[str, list[int]]:
    """The pids on this machine of each run that a worker started, by run id."""
    found: dict[str, list[int]] = {}
    for pid, run in processes.find_by_variable(prefect_variables.RUN_ID):
        found.setdefault(run, []).append(pid)
    return found


def _cancelled(why: str) -> dict[str, Any]:
    return {"state": {"type": "CANCELLED", "name": "Cancelled", "message": f"truecourse: {why}"}, "force": True}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _is_id(text: str) -> bool:
    from uuid import UUID

    try:
        UUID(text)
    except ValueError:
        return False
    return True
