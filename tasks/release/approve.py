"""Ask a person, in the Prefect UI, and wait for the answer."""

import logging
from typing import Any

from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.utilities.urls import url_for
from pydantic import Field

from truecourse.errors import GateFailed
from truecourse.problem import Promotion
from truecourse.references import ModelVersion

log = logging.getLogger("truecourse.problem.promotion")
_POLL = 2
"""Seconds between looks at whether the answer is there."""


class Approval(RunInput):
    """The form that the UI shows."""

    approve: bool
    reason: str = Field(min_length=1)


def request_approval(promotion: Promotion, version: ModelVersion, reason: str, verdicts: list[dict[str, Any]]) -> str:
    """Pause the flow run until a person has answered; the reason for the record, theirs with it.

    To be called from a flow. Raises GateFailed if they say no, or nobody answers within `promotion.patience`."""
    where, again = f"version {version.version} of {version.problem}", "truecourse promote, when it is agreed"
    lines = [f"- {gate['gate']}: {gate['detail']}" for gate in verdicts]
    told = f"Shall {where} be champion? {reason}\n\nEvery gate is open:\n\n" + "\n".join(lines)
    log.warning("%s awaits approval: %s", where, _address())
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=told),
            timeout=round(promotion.patience.total_seconds()),
            poll_interval=_POLL,
        )
    except FlowPauseTimeout:
        what = f"nobody approved it within {promotion.patience}"
        raise GateFailed(what, where=where, hint=again, gates=verdicts) from None
    if not answer.approve:
        raise GateFailed(f"not approved: {answer.reason}", where=where, hint=again, gates=verdicts)
    return f"{reason}; approved: {answer.reason}"


def _address() -> str:
    context = FlowRunContext.get()
    return (url_for(context.flow_run) or "") if context and context.flow_run else ""
