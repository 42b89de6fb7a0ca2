"""Hooks of every flow: they record its process, and send its lineage events if a receiver is set."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from tasks.process import note_process
from truecourse.settings import get_settings

if TYPE_CHECKING:
    from truecourse.openlineage.steps import FlowRun


def send_start(flow: Any, flow_run: Any, state: Any) -> None:
    """Send the start of a flow run; a hook for `on_running`, which Prefect calls in the context of the parent."""
    if not _is_on():
        return
    from truecourse.openlineage import flow_events

    context = FlowRunContext.get()
    above = None if context is None or context.flow_run is None else str(context.flow_run.id)
    flow_events.flow_started(_described(flow, flow_run, None), None if above == str(flow_run.id) else above)


def send_end(flow: Any, flow_run: Any, state: Any) -> None:
    """Send the steps and the end of a flow run; a hook for every kind of end."""
    if not _is_on():
        return
    from truecourse.openlineage import flow_events

    outcome: flow_events.Outcome = "COMPLETE" if state.is_completed() else "FAIL" if state.is_failed() else "ABORT"
    returned = None if outcome == "ABORT" else state.result(raise_on_failure=False)
    run = _described(flow, flow_run, returned if outcome == "COMPLETE" else None)
    flow_events.flow_ended(run, outcome, returned)


def _is_on() -> bool:
    """Whether events are sent. Otherwise the modules that make them are not imported."""
    return get_settings().openlineage != "off"


def _described(flow: Any, flow_run: Any, result: Any) -> "FlowRun":
    from truecourse.openlineage.steps import FlowRun

    now = datetime.now(UTC)  # times are compared with those of commits: this machine's clock, not the server's
    return FlowRun(str(flow_run.id), flow.name, flow_run.parameters or {}, now, result)


def hooks() -> dict[str, Any]:
    """Keyword arguments for @flow. Prefect keeps these lists and adds to them, so each flow needs lists of its own."""
    kinds = ("on_completion", "on_failure", "on_crashed", "on_cancellation")
    return {"on_running": [note_process, send_start], **{kind: [send_end] for kind in kinds}}
