"""Record findings, notify people and automations, and decide whether to retrain."""

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
from truecourse.monitoring.alerts.alert_lifecycle import EVENTS, AlertChanges, update_alerts
from truecourse.monitoring.alerts.alert_record import Decision
from truecourse.monitoring.alerts.channels import configured_channels
from truecourse.monitoring.alerts.delivery import Channel, deliver
from truecourse.monitoring.alerts.retraining_policy import record_decision
from truecourse.monitoring.alerts.retraining_runs import follow
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.registry import aliases
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.alerts")


def channels() -> dict[str, Channel]:
    """Notification channels by name: Prefect inside a flow run, and those of the settings."""
    events: dict[str, Channel] = {EVENTS: send_events} if FlowRunContext.get() is not None else {}
    return events | configured_channels(get_settings())


@task(name="record findings", **RETRY)
def record_findings(problem: str, reports: Sequence[Report], at: datetime | None = None) -> dict[str, Any]:
    """Record the findings of the reports, and decide whether to retrain. Nothing is sent before notify().

    `at`: the reference time (UTC); the wall clock if None. Returns {"open", "opened", "recovered": ids of alarms,
    "retraining": the decision}."""
    spec, store, now, names = load_problem(problem), open_store(), at or datetime.now(UTC), channels()
    changes = update_alerts(store, spec, reports, now, list(names))
    follow(store, problem, aliases.history(problem), now)
    decision = record_decision(store, spec, now, list(names))
    for event in changes.events:
        log.info("%s: %s", event.kind, event.sentence)
    _create_artifact(problem, changes)
    return _summary(changes, decision)


@task(name="notify", **RETRY)
def notify(problem: str, at: datetime | None = None) -> dict[str, str]:
    """Send the pending notifications; returns the result by channel.

    Call it after checks and pages, so that a slow receiver delays neither. `at`: as in record_findings()."""
    return deliver(open_store(), load_problem(problem), channels(), at or datetime.now(UTC))


def _summary(changes: AlertChanges, decision: Decision | None) -> dict[str, Any]:
    return {
        "open": [alarm.id for alarm in changes.open],
        "opened": [event.alarm for event in changes.of("opened")],
        "recovered": [event.alarm for event in changes.of("recovered")],
        "retraining": decision.model_dump(mode="json") if decision else None,
    }


def _create_artifact(problem: str, changes: AlertChanges) -> None:
    if FlowRunContext.get() is None:
        return
    rows = [
        {
            "check": alarm.finding.check,
            "what": alarm.finding.subject,
            "cause": alarm.finding.cause,
            "critical": alarm.notified_at is not None,
            "since (UTC)": f"{alarm.opened:%Y-%m-%d %H:%M}",
            "sentence": alarm.finding.sentence,
        }
        for alarm in changes.open
    ]
    title = f"{problem}: open findings" if rows else f"{problem}: no open findings"
    create_table_artifact(rows, key=artifact_key("findings", problem), description=title)
