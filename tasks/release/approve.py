"""Request a person's approval in the Prefect UI."""

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
"""Seconds between two polls for the answer."""


class Approval(RunInput):
    """The form in the Prefect UI."""

    approve: bool
    reason: str = Field(min_length=1)


def request_approval(promotion: Promotion, version: ModelVersion, reason: str, results: list[dict[str, Any]]) -> str:
    """Pause the flow run until a person answers; returns the reason for the record, with theirs.

    Call it from a flow. Raises GateFailed if the person refuses, or does not answer within `promotion.patience`."""
    where, hint = f"version {version.version} of {version.problem}", "run truecourse promote again once it is agreed"
    lines = [f"- {gate['gate']}: {gate['detail']}" for gate in results]
    question = f"Promote {where} to champion? {reason}\n\nGate results:\n\n" + "\n".join(lines)
    log.warning("%s awaits approval: %s", where, _address())
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=question),
            timeout=round(promotion.patience.total_seconds()),
            poll_interval=_POLL,
        )
    except FlowPauseTimeout:
        what = f"it was not approved within {promotion.patience}"
        raise GateFailed(what, where=where, hint=hint, gates=results) from None
    if not answer.approve:
        raise GateFailed(f"not approved: {answer.reason}", where=where, hint=hint, gates=results)
    return f"{reason}; approved: {answer.reason}"


def _address() -> str:
    context = FlowRunContext.get()
    return (url_for(context.flow_run) or "") if context and context.flow_run else ""
