"""Stuck flow runs: runs that wait too long or run far longer than usual, each with the command that frees it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.health.flow_run_health import longest_run
from truecourse.monitoring.health.freshness import pipeline_finding
from truecourse.wording import counted, format_duration

PATIENCE = timedelta(minutes=10)
"""How long a run may be late, be pending or be cancelling."""

Run = Mapping[str, Any]


@dataclass(frozen=True)
class StuckRun:
    """A stuck run, or several that wait for the same slot or worker: since when (UTC), why, and how to free it."""

    flow: str
    run: str
    since: datetime
    cause: Cause
    sentence: str
    command: str

    def finding(self) -> Finding:
        what = f"{self.sentence} Free it: {self.command}"
        return pipeline_finding(f"flow {self.flow}", self.cause, True, what, run=self.run, since=self.since.isoformat())

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "since": self.since.isoformat(timespec="seconds")}


def find_stuck(
    waiting: Sequence[Run],
    held: Sequence[Run],
    names: Mapping[str, str],
    past: Mapping[str, Sequence[float]],
    now: datetime,
) -> list[StuckRun]:
    """Find the stuck runs, longest first.

    `waiting`: runs that should have started; `held`: runs with a process according to Prefect's API. `names`: flow
    names by flow id. `past`: the seconds that a flow's successful runs took."""
    stuck = [one for run in held if (one := _check_held(run, names, past.get(run["flow_id"], ()), now)) is not None]
    groups: dict[tuple[str, bool], list[Run]] = {}
    for run in waiting:
        if now - _moment(run["expected_start_time"]) > PATIENCE:
            groups.setdefault((run["deployment_id"] or run["flow_id"], _wants_slot(run)), []).append(run)
    stuck += [_describe_waiting(runs, [one for one in held if one["deployment_id"] == key], names, now)
              for (key, _), runs in groups.items()]  # fmt: skip
    return sorted(stuck, key=lambda one: one.since)


def _check_held(run: Run, names: Mapping[str, str], past: Sequence[float], now: datetime) -> StuckRun | None:
    """Return a run that has a process according to Prefect, if it is stuck."""
    name, state, since = names.get(run["flow_id"], "?"), run["state_type"], _moment(run["state"]["timestamp"])
    lasted, command = now - since, f"truecourse release {run['id']}"
    if state == "RUNNING":
        if lasted.total_seconds() <= longest_run(past):
            return None
        usual = f"; its longest of {counted(len(past), 'success')} took {format_duration(max(past))}" if past else ""
        message = f"The run {run['name']} has been running for {format_duration(lasted)}{usual}."
        return StuckRun(name, run["id"], since, "stuck", message, command)
    if state not in ("PENDING", "CANCELLING") or lasted <= PATIENCE:
        return None
    doing = "pending on a worker" if state == "PENDING" else "being cancelled"
    return StuckRun(
        name,
        run["id"],
        since,
        "stuck",
        f"The run {run['name']} has been {doing} for {format_duration(lasted)}.",
        command,
    )


def _describe_waiting(runs: Sequence[Run], holders: Sequence[Run], names: Mapping[str, str], now: datetime) -> StuckRun:
    """Describe runs of one deployment that should have started."""
    oldest = min(runs, key=lambda run: run["expected_start_time"])
    name, since = names.get(oldest["flow_id"], "?"), _moment(oldest["expected_start_time"])
    many = f"{counted(len(runs), 'run')} of {name}" if len(runs) > 1 else f"The run {oldest['name']} of {name}"
    have, lasted = ("have" if len(runs) > 1 else "has"), format_duration(now - since)
    if not _wants_slot(oldest):
        message = f"{many} {have} been late for {lasted}, and no worker takes {'them' if len(runs) > 1 else 'it'}."
        return StuckRun(
            name, oldest["id"], since, "late", message, "truecourse up (truecourse status says what is down)"
        )
    if not holders:
        message = f"{many} {have} waited for {lasted} for a concurrency slot that no run holds."
        return StuckRun(name, oldest["id"], since, "waits for a slot", message, "truecourse release")
    holder = holders[0]
    message = f"{many} {have} waited for {lasted} for the concurrency slot of the run {holder['name']}."
    return StuckRun(name, oldest["id"], since, "waits for a slot", message, f"truecourse release {holder['id']}")


def findings(stuck: Iterable[StuckRun]) -> list[Finding]:
    """Return one finding per flow and cause."""
    return list({(one.flow, one.cause): one.finding() for one in stuck}.values())


def _wants_slot(run: Run) -> bool:
    return bool(run["state_name"] == "AwaitingConcurrencySlot")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
