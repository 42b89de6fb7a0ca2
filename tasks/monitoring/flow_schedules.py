"""Read a problem's scheduled flows and their runs from the Prefect server."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from services.process.platform_state import serving_since
from tasks.compat import prefect_schedules
from truecourse.errors import PlatformError, SettingsError
from truecourse.monitoring.health.flow_run_health import GRACE, Outcome, Run, ScheduledFlow
from truecourse.problem.loader import default_problem
from truecourse.settings import REPOSITORY

RUNS = 60
"""Number of newest runs that are read for each flow."""
_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=8), timedelta(days=40), timedelta(days=400))
"""Time ranges, tried in this order, to search for the last scheduled times."""
_OUTCOMES: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "crashed",
    "CANCELLED": "cancelled",
    "CANCELLING": "cancelled",
    "RUNNING": "running",
}


def scheduled_flows(problem: str, now: datetime) -> list[ScheduledFlow]:
    """The problem's scheduled flows on this process's Prefect server.

    Without a server, the flows of prefect.yaml are returned, with no runs.
    Raises PlatformError if the server does not answer."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return list(_declared(problem))
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            return list(_deployed(client, problem, now))
    except (httpx.HTTPError, PrefectException) as error:
        what = f"the Prefect server does not answer: {type(error).__name__}"
        raise PlatformError(what, where=str(PREFECT_API_URL.value())) from error


def _default() -> str | None:
    """The problem of flows without a `problem` parameter; None if there is no single default."""
    try:
        return default_problem()
    except SettingsError:
        return None


def _declared(problem: str) -> Iterator[ScheduledFlow]:
    default = _default()
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]:
        schedules = deployment.get("schedules", [])
        if schedules and (deployment["parameters"].get("problem") or default) == problem:
            schedule = ", ".join(str(one.get("cron") or one.get("interval") or one.get("rrule")) for one in schedules)
            yield ScheduledFlow(deployment["name"], schedule)


def _deployed(client: Any, problem: str, now: datetime) -> Iterator[ScheduledFlow]:
    from prefect.settings import PREFECT_API_URL

    default, serving = _default(), serving_since(str(PREFECT_API_URL.value()))
    workers: dict[str, int] = {}
    for deployment in client.read_deployments():
        active = [] if deployment.paused else [one for one in deployment.schedules if one.active]
        if not active or (deployment.parameters.get("problem") or default) != problem:
            continue
        pool = deployment.work_pool_name
        if pool and pool not in workers:
            online = client.read_workers_for_work_pool(pool)
            workers[pool] = sum(worker.status == "ONLINE" for worker in online)
        moments = sorted(moment for one in active for moment in moments_before(one.schedule, now - GRACE))
        yield ScheduledFlow(
            name=deployment.name,
            schedule=", ".join(_schedule_text(one.schedule) for one in active),
            due=moments[-1] if moments else None,
            period=moments[-1] - moments[-2] if len(moments) > 1 else None,
            since=max(_utc(one.updated or one.created) or now for one in active),
            runs=_runs(client, deployment, problem, default, now),
            serving=serving,
            workers=workers[pool] if pool else 1,  # without a pool, the serving process runs it
        )


def _schedule_text(schedule: Any) -> str:
    return str(getattr(schedule, "cron", None) or getattr(schedule, "interval", None) or schedule.rrule)


def moments_before(schedule: Any, end: datetime) -> Sequence[datetime]:
    """The last two scheduled times up to `end`, oldest first; fewer if there are not two within 400 days."""
    moments: list[datetime] = []
    for back in _BACK:
        dates = prefect_schedules.scheduled_times(schedule, end - back, end)
        moments = [datetime.fromtimestamp(moment.timestamp(), UTC) for moment in dates]
        if len(moments) > 1:
            break
    return moments[-2:]


def _runs(client: Any, deployment: Any, problem: str, default: str | None, now: datetime) -> list[Run]:
    """Runs of the deployment and manual runs of its flow, without runs inside other flows."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterId, FlowRunFilter, FlowRunFilterExpectedStartTime
    from prefect.client.schemas.sorting import FlowRunSort

    runs = client.read_flow_runs(
        flow_filter=FlowFilter(id=FlowFilterId(any_=[deployment.flow_id])),
        flow_run_filter=FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(before_=now)),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=RUNS,
    )
    return [
        _run(run, now)
        for run in runs
        if run.parent_task_run_id is None
        and run.deployment_id in (None, deployment.id)
        and ((run.parameters or {}).get("problem") or default) == problem
    ]


def _run(run: Any, now: datetime) -> Run:
    state, started = (run.state_type.value if run.state_type else ""), _utc(run.start_time)
    return Run(
        outcome=_OUTCOMES.get(state, "waiting"),
        expected=_utc(run.expected_start_time) or now,
        started=started,
        seconds=(now - started).total_seconds()
        if started and state == "RUNNING"
        else run.total_run_time.total_seconds(),
        message=(run.state.message or "") if run.state else "",
    )


def _utc(moment: datetime | None) -> datetime | None:
    """A standard-library datetime: Prefect's class (pendulum's) loses its zone in subtractions."""
    return datetime.fromtimestamp(moment.timestamp(), UTC) if moment else None
