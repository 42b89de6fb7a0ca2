"""Send findings as Prefect events, for automations and the event feed of the UI."""

import uuid
from collections.abc import Sequence
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import Event

from truecourse.errors import DeliveryFailed
from truecourse.monitoring.alerts.alert_record import Notification

FINDING, RECOVERY = "truecourse.finding", "truecourse.recovery"
_NAMESPACE = uuid.UUID("6d7f0f0e-0a53-4b0c-9a55-3f6f4f6b1f01")


def send_events(problem: str, notices: Sequence[Notification]) -> None:
    """Post the events and wait for the response, since `emit_event` does not report failures.

    Event ids are derived from the notices, so the server drops duplicates. Raises DeliveryFailed."""
    events = [_event(problem, notice).model_dump(mode="json") for notice in notices]
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=events)
    except (httpx.HTTPError, OSError) as error:
        raise DeliveryFailed(f"the Prefect server did not accept the events: {type(error).__name__}") from None


def _event(problem: str, notice: Notification) -> Event:
    finding = notice.finding
    resource = {
        "prefect.resource.id": f"truecourse.finding.{problem}.{finding.key}",
        "prefect.resource.name": f"{finding.subject}: {finding.cause}",
        "truecourse.problem": problem,
        "truecourse.check": finding.check,
        "truecourse.cause": finding.cause,
        "truecourse.state": notice.kind,
    }
    payload = {"id": notice.id, "problem": problem, "at": notice.at.isoformat(), "sentence": notice.sentence}
    return Event.model_validate(
        {
            "id": uuid.uuid5(_NAMESPACE, notice.id),
            "event": RECOVERY if notice.kind == "recovered" else FINDING,
            "resource": resource,
            "related": _run(),
            "payload": payload | {"finding": finding.model_dump(mode="json") | {"key": finding.key}},
        }
    )


def _run() -> list[dict[str, Any]]:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    return [{"prefect.resource.id": f"prefect.flow-run.{context.flow_run.id}", "prefect.resource.role": "flow-run"}]
