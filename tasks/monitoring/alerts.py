"""What is done about findings: the record, the people and automations that hear of them, and whether to retrain."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from tasks.artifacts import artifact_key
from tasks.monitoring.events import send_events
from tasks.retry import RETRY
from truecourse.monitoring.alerts.channels import configured_channels
from truecourse.monitoring.alerts.delivery import Channel, deliver
from truecourse.monitoring.alerts.history import Decision
from truecourse.monitoring.alerts.lifecycle import EVENTS, AlertChanges, update_alerts
from truecourse.monitoring.alerts.retraining_policy import record_decision
from truecourse.monitoring.alerts.retraining_runs import follow
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.registry import aliases
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.alerts")


def channels() -> dict[str, Channel]:
    """Who is told: Prefect, where a flow runs, and what the settings name."""
    events: dict[str, Channel] = {EVENTS: send_events} if FlowRunContext.get() is not None else {}
    return events | configured_channels(get_settings())


@task(name="settle", **RETRY)
def record_findings(problem: str, reports: Sequence[Report], at: datetime | None = None) -> dict[str, Any]:
    """Enter the reports into the record of findings, and weigh whether to retrain. Nobody is told yet: notify() does.

    `at`: the moment that counts as now (UTC); the wall clock if None. {"open", "opened", "recovered": ids of alarms,
    "retraining": what was decided}."""
    spec, store, now, told = load_problem(problem), open_store(), at or datetime.now(UTC), channels()
    settled = update_alerts(store, spec, reports, now, list(told))
    follow(store, problem, aliases.history(problem), now)
    decision = record_decision(store, spec, now, list(told))
    for event in settled.events:
        log.info("%s: %s", event.kind, event.sentence)
    _table(problem, settled)
    return _summary(settled, decision)


@task(name="notify", **RETRY)
def notify(problem: str, at: datetime | None = None) -> dict[str, str]:
    """Tell whom it concerns, once checks and pages are done: a receiver that is slow keeps neither waiting. By channel,
    what came of it. `at`: as settle_reports() takes it."""
    return deliver(open_store(), load_problem(problem), channels(), at or datetime.now(UTC))


def _summary(settled: AlertChanges, decision: Decision | None) -> dict[str, Any]:
    return {
        "open": [alarm.id for alarm in settled.open],
        "opened": [event.alarm for event in settled.of("opened")],
        "recovered": [event.alarm for event in settled.of("recovered")],
        "retraining": decision.model_dump(mode="json") if decision else None,
    }


def _table(problem: str, settled: AlertChanges) -> None:
    if FlowRunContext.get() is None:
        return
    rows = [
        {
            "check": alarm.finding.check,
            "what": alarm.finding.subject,
            "cause": alarm.finding.cause,
            "pages": alarm.told is not None,
            "since (UTC)": f"{alarm.opened:%Y-%m-%d %H:%M}",
            "sentence": alarm.finding.sentence,
        }
        for alarm in settled.open
    ]
    told = f"{problem}: open findings" if rows else f"{problem}: nothing is open"
    create_table_artifact(rows, key=artifact_key("findings", problem), description=told)
