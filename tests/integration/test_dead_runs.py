"""Flow runs of killed processes on a real Prefect server are marked and their slots freed; live runs are kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from services.process import flow_runs
from services.process.flow_runs import FlowRuns, worker_name
from tests.conftest import REPOSITORY, wait_until
from truecourse.compat import prefect_variables
from truecourse.errors import PlatformError
from truecourse.processes import started_at

POOL = "dead-runs"
FLOW = """
import time
from prefect import flow, task
from tasks.process import note_process

@task
def step():
    time.sleep(99)

@flow(name="sleeping", on_running=[note_process])
def sleeping():
    step()

sleeping()
"""


class World:
    """A deployment with one slot in its own pool, and runs in the states that a killed worker leaves."""

    def __init__(self, api: str, name: str = "killed") -> None:
        self.runs = FlowRuns(api)
        self.request = self.runs.request
        self.flow = self.request("POST", "/flows/", {"name": "killed"})["id"]
        wanted = {"name": name, "flow_id": self.flow, "work_pool_name": POOL, "concurrency_limit": 1}
        self.deployment = self.request("POST", "/deployments/", wanted)["id"]

    def run(self, *states: str, hours_ago: float = 0) -> str:
        """Create a run that was due then and went through these states, without a process; its id."""
        due = (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat()
        scheduled = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}}
        run = self.request("POST", f"/deployments/{self.deployment}/create_flow_run", scheduled)["id"]
        for state in states:
            self.request("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state, "name": state.title()}})
        return str(run)

    def state(self, run: str) -> str:
        return str(self.request("GET", f"/flow_runs/{run}")["state_name"])

    def heartbeat(self, run: str, minutes_ago: float) -> None:
        occurred = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
        event = {"id": str(uuid4()), "event": prefect_variables.HEARTBEAT, "occurred": occurred, "resource": resource}
        self.request("POST", "/events", [event])

    def heartbeats(self, *runs: str) -> int:
        wanted = {
            "event": {"name": [prefect_variables.HEARTBEAT]},
            "resource": {"id": [f"prefect.flow-run.{r}" for r in runs]},
            "occurred": {"until": (datetime.now(UTC) + timedelta(days=3)).isoformat()},
        }
        return len(self.request("POST", "/events/filter", {"filter": wanted, "limit": 50})["events"])

    def taken_slots(self) -> int:
        return int(self.runs.limits()[self.deployment]["active_slots"])


@pytest.fixture
def world(home: Path, prefect_server: str) -> Iterator[World]:
    runs = FlowRuns(prefect_server)
    with suppress(PlatformError):  # an earlier test created it
        runs.request("POST", "/work_pools/", {"name": POOL, "type": "process"})
    world = World(prefect_server)
    yield world
    for run in world.runs.active():
        world.runs.try_mark(run, "the test is over")
    with suppress(PlatformError):
        world.request("DELETE", f"/deployments/{world.deployment}")


@pytest.fixture
def process(home: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Start a real flow in its own process, as a person does; return when it runs its task."""
    started = []

    def begin() -> "subprocess.Popen[bytes]":
        before = {file.name for file in flow_runs.notes_folder().glob("*")}
        started.append(subprocess.Popen([sys.executable, "-c", FLOW], cwd=REPOSITORY))
        wait_until(lambda: {file.name for file in flow_runs.notes_folder().glob("*")} > before, 60, "the flow")
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.wait(20)


def run_of(process: "subprocess.Popen[bytes]") -> str:
    return next(
        file.name for file in flow_runs.notes_folder().glob("*") if file.read_text().startswith(f"{process.pid} ")
    )


@pytest.mark.parametrize(
    ("states", "end"),
    [
        (("PENDING",), "Crashed"),
        (("PENDING", "RUNNING"), "Crashed"),
        (("PENDING", "RUNNING", "CANCELLING"), "Cancelled"),
    ],
)
def test_runs_of_a_dead_worker_are_marked_before_the_next_worker_starts(
    world: World, states: tuple[str, ...], end: str
) -> None:
    dead, waiting = world.run(*states), world.run("PENDING")
    assert (world.state(waiting), world.taken_slots()) == ("AwaitingConcurrencySlot", 1), "the slot is still taken"
    assert not world.runs.reconcile(POOL).runs, "a living worker may have just taken it"
    freed = world.runs.reconcile(POOL, starting=True)
    assert [run["id"] for run in freed.runs] == [dead]
    assert (world.state(dead), world.taken_slots()) == (end, 0)
    world.request("POST", f"/flow_runs/{waiting}/set_state", {"state": {"type": "PENDING", "name": "Pending"}})
    assert (world.state(waiting), world.taken_slots()) == ("Pending", 1), "the next one runs"


def test_a_run_on_this_machine_is_kept_while_its_process_lives(
    world: World, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    living = process()
    run = run_of(living)
    for starting in (False, True):
        assert not world.runs.reconcile(POOL, starting=starting).runs
    os.kill(living.pid, signal.SIGKILL)
    living.wait(20)
    (marked,) = world.runs.reconcile(POOL).runs
    assert marked["id"] == run
    assert world.state(run) == "Crashed"
    tasks = world.request("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert all(task["state_type"] in ("CRASHED", "COMPLETED") for task in tasks), "its tasks do not run on in the UI"
    world.runs.reconcile(POOL)
    assert not list(flow_runs.notes_folder().glob("*")), "its note is gone"


def test_a_run_is_kept_while_another_machines_worker_may_have_it(world: World) -> None:
    world.request("POST", f"/work_pools/{POOL}/workers/heartbeat", {"name": worker_name()})
    pending = world.run("PENDING")
    world.request("POST", f"/work_pools/{POOL}/workers/heartbeat", {"name": "a worker elsewhere"})
    try:
        assert not world.runs.reconcile(POOL, starting=True).runs
        assert world.state(pending) == "Pending"
    finally:
        world.request("DELETE", f"/work_pools/{POOL}/workers/a%20worker%20elsewhere")
    assert [run["id"] for run in world.runs.reconcile(POOL, starting=True).runs] == [pending]


@pytest.mark.parametrize("hours", [0, 30, -30])
def test_a_run_of_another_machine_lives_as_long_as_its_heartbeats(
    world: World, prefect_server: str, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """`up` cannot see the process, and the other machine's clock may differ. A run that sends no heartbeat while we
    watch is dead; one that never sent a heartbeat may be alive."""
    world.request("POST", f"/work_pools/{POOL}/workers/heartbeat", {"name": "a worker elsewhere"})
    others = {name: World(prefect_server, name) for name in ("silent", "living", "mute")}
    runs = {name: other.run("PENDING", "RUNNING") for name, other in others.items()}
    for name in ("silent", "living"):
        world.heartbeat(runs[name], hours * 60)
    try:
        wait_until(lambda: world.heartbeats(*runs.values()) == 2, 30, "the events")
        assert not world.runs.reconcile(POOL).runs, "we have not watched them yet"
        wait(monkeypatch, 10)
        world.heartbeat(runs["living"], hours * 60 + 0.01)  # older by the clock of its machine, which was set back
        wait_until(lambda: world.heartbeats(*runs.values()) == 3, 30, "the event")
        assert not world.runs.reconcile(POOL).runs
        wait(monkeypatch, 6)
        assert [run["id"] for run in world.runs.reconcile(POOL).runs] == [runs["silent"]]
        assert [world.state(run) for run in runs.values()] == ["Crashed", "Running", "Running"]
    finally:
        world.request("DELETE", f"/work_pools/{POOL}/workers/a%20worker%20elsewhere")
        for other in others.values():
            other.request("DELETE", f"/deployments/{other.deployment}")


@pytest.mark.parametrize("hours", [0, 24, -24])
def test_a_run_that_never_got_a_process_is_dead_whatever_the_clock_shows(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    pending = world.run("PENDING")
    set_clock(monkeypatch, hours)
    assert not world.runs.reconcile(POOL).runs
    wait(monkeypatch, 2)
    assert [run["id"] for run in world.runs.reconcile(POOL).runs] == [pending]


def test_a_run_that_waits_for_a_time_of_a_clock_that_was_set_back_is_due_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = world.run(hours_ago=25)
    wait = {"scheduled_time": (datetime.now(UTC) + timedelta(seconds=30)).isoformat()}
    state = {"type": "SCHEDULED", "name": "AwaitingConcurrencySlot", "state_details": wait}
    world.request("POST", f"/flow_runs/{waiting}/set_state", {"state": state, "force": True})
    world.runs.reconcile(POOL)
    assert world.state(waiting) == "AwaitingConcurrencySlot", "it waits half a minute"
    set_clock(monkeypatch, -24)
    world.runs.reconcile(POOL)
    run = world.request("GET", f"/flow_runs/{waiting}")
    assert datetime.fromisoformat(run["next_scheduled_start_time"]) < datetime.now(UTC) - timedelta(hours=23)


def wait(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    """Let minutes pass on our monotonic clock."""
    passed = vars(flow_runs)["time"].monotonic() - time.monotonic() + minutes * 60
    monkeypatch.setattr(flow_runs, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))


def set_clock(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Let our clock differ from the one by which the Prefect server wrote its records."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(flow_runs, "datetime", Clock)


def test_a_run_of_a_deleted_deployment_does_not_block_the_others(world: World, prefect_server: str) -> None:
    refused, other = world.run("PENDING"), World(prefect_server, "another")
    dead = other.run("PENDING", "RUNNING")
    world.request("DELETE", f"/deployments/{world.deployment}")
    marked = [run["id"] for run in world.runs.reconcile(POOL, starting=True).runs]
    assert dead in marked, "Prefect may refuse to let the other end, until the lease of its slot has"
    other.request("DELETE", f"/deployments/{other.deployment}")
    world.request("DELETE", f"/flow_runs/{refused}")


def test_a_slot_without_a_run_is_freed_at_the_second_check(world: World) -> None:
    limit = world.runs.limits()[world.deployment]
    world.request("PATCH", f"/v2/concurrency_limits/{limit['id']}", {"active_slots": 1})
    assert (world.runs.reconcile(POOL).slots, world.taken_slots()) == (0, 1), "a run may be taking it at this moment"
    assert (world.runs.reconcile(POOL).slots, world.taken_slots()) == (1, 0)
    held = world.run("PENDING")
    for _ in range(3):
        assert world.runs.reconcile(POOL).slots == 0
    assert (world.state(held), world.taken_slots()) == ("Pending", 1)


def test_only_the_newest_of_missed_runs_is_kept(world: World) -> None:
    by_hand = world.run(hours_ago=2)
    wanted = {"cron": "*/5 * * * *", "timezone": "UTC"}
    world.request("POST", f"/deployments/{world.deployment}/schedules", [{"schedule": wanted, "active": True}])
    coming = {
        "start_time": datetime.now(UTC).isoformat(),
        "end_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    world.request("POST", f"/deployments/{world.deployment}/schedule", coming)
    later = datetime.now(UTC) + timedelta(minutes=31)
    due = [run for run in world.runs.runs(deployment_id={"any_": [world.deployment]}) if run["id"] != by_hand]
    late = [run for run in due if datetime.fromisoformat(run["expected_start_time"]) < later]
    assert len(late) > 3
    assert world.runs.skip_missed(POOL, later) == len(late) - 1
    states = [world.state(run["id"]) for run in late]  # the newest first
    assert states == ["Scheduled", *["Cancelled"] * (len(late) - 1)]
    assert world.state(by_hand) in ("Scheduled", "Late"), "a run that a person asked for is kept"
    assert all(world.state(run["id"]) == "Scheduled" for run in due if run not in late)
    assert world.runs.skip_missed(POOL, later) == 0


def test_runs_that_were_missed_while_the_worker_ran_are_cancelled_too(world: World) -> None:
    """A machine that slept, or a clock that was set forwards: the worker ran, and many runs are due at once."""
    wanted = {"cron": "*/5 * * * *", "timezone": "UTC"}
    world.request("POST", f"/deployments/{world.deployment}/schedules", [{"schedule": wanted, "active": True}])
    since, until = (datetime.now(UTC) - timedelta(minutes=minutes) for minutes in (61, 2))
    due = {"start_time": since.isoformat(), "end_time": until.isoformat()}
    world.request("POST", f"/deployments/{world.deployment}/schedule", due)
    late = world.runs.runs(deployment_id={"any_": [world.deployment]})
    assert len(late) > 3
    assert world.runs.reconcile(POOL).missed == len(late) - 1
    states = [world.state(run["id"]) for run in late]  # the newest first
    assert states[0] in ("Scheduled", "Late")
    assert states[1:] == ["Cancelled"] * (len(late) - 1)
    assert world.runs.reconcile(POOL).missed == 0


def test_a_stuck_run_is_reported_with_the_command_that_releases_it(
    world: World, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    holder = world.run("PENDING", "RUNNING")
    world.run("PENDING")
    assert world.runs.stuck(datetime.now(UTC)) == [], "nothing is, yet"
    waiting = world.run("PENDING", hours_ago=1)
    (one,) = world.runs.stuck(datetime.now(UTC))
    assert (one.flow, one.cause, one.command) == ("killed", "waits for a slot", f"truecourse release {holder}")
    assert "for the concurrency slot of the run" in one.sentence
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert {found.command for found in world.runs.stuck(tomorrow)} == {f"truecourse release {holder}"}
    living = process()
    sleeping = run_of(living)
    assert f"truecourse release {sleeping}" in {found.command for found in world.runs.stuck(tomorrow)}
    assert "1 process ended" in world.runs.release(world.runs.find(sleeping))
    assert started_at(living.pid) is None
    assert world.state(sleeping) == "Crashed"
    world.runs.release(world.runs.find(holder))
    assert (world.state(holder), world.taken_slots()) == ("Crashed", 0)
    with pytest.raises(PlatformError, match="has ended"):
        world.runs.release(world.runs.find(holder))
    with pytest.raises(PlatformError, match="no such flow run"):
        world.runs.find("nobody")
    assert "cancelled" in world.runs.release(world.runs.find(waiting))
