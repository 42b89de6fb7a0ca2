"""The events of a flow run: its start and end, and the start and end of each of its steps.

Nothing here raises: lineage events must not fail a flow. What goes wrong is logged, and the events that could be made
are kept.
"""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from truecourse.errors import TruecourseError, ValidationFailed
from truecourse.openlineage import delivery
from truecourse.openlineage.events import Document, Job, Run, documentation, error_message, facets, ownership
from truecourse.openlineage.steps import FlowRun, Step, steps_of
from truecourse.problem.namespace import Namespace
from truecourse.registry.run_archive import source_location

log = logging.getLogger("truecourse.openlineage")
Outcome = Literal["COMPLETE", "FAIL", "ABORT"]


@dataclass(frozen=True)
class Opened:
    """A flow run that has started in this process, with the run of its events."""

    flow: FlowRun
    run: Run
    namespace: Namespace | None


_opened: dict[str, Opened] = {}


def flow_started(flow: FlowRun, parent: str | None) -> None:
    """Send the start of a flow run. `parent`: the id of the flow run that called it."""
    try:
        opened = open_run(flow, parent)
        _opened[flow.id] = opened
        delivery.keep([opened.run.event("START", flow.started)])
        delivery.start_sending()
    except Exception as error:  # a lineage event must not fail a flow
        log.warning("the start of flow run %s has no lineage event: %s", flow.id, error)


def flow_ended(flow: FlowRun, outcome: Outcome, error: object = None) -> None:
    """Send the steps and the end of a flow run. Of a run in no other run, wait a little for the delivery.

    A run that started in another process, which died, may lack steps."""
    try:
        opened = _opened.pop(flow.id, None) or open_run(flow)
        ended = replace(opened, flow=replace(opened.flow, result=flow.result))
        delivery.keep(end_events(ended, outcome, error))
        delivery.start_sending()
        if not opened.run.parents:
            delivery.wait_for_delivery()
    except Exception as failure:  # a lineage event must not fail a flow
        log.warning("the end of flow run %s has no lineage event: %s", flow.id, failure)


def open_run(flow: FlowRun, parent: str | None = None) -> Opened:
    """The run of a flow run's events. `parent`: the id of the flow run that called it."""
    namespace: Namespace | None = None
    try:
        namespace = flow.load_namespace()
    except TruecourseError:  # the flow itself reports it
        log.info("flow run %s has no problem that can be loaded", flow.id)
    above = _opened.get(parent or "")
    parents = () if above is None else (above.run, *above.run.parents)
    name = namespace.name if namespace is not None else str(flow.parameters.get("problem") or "")
    return Opened(flow, Run(flow.id, _job(f"{name}.{flow.flow}", "FLOW", namespace), parents), namespace)


def _job(name: str, kind: str, namespace: Namespace | None, more: Document | None = None) -> Job:
    described = {"processingType": "BATCH", "integration": "TRUECOURSE", "jobType": kind}
    location = _location(namespace.folder) if namespace is not None else None
    known: dict[str, Any] = {"jobType": described, "sourceCodeLocation": location}
    if namespace is not None:
        known["jobDocumentation"] = documentation(namespace.description)
        known["jobOwnership"] = ownership(namespace.owner)
    return Job(name, facets(**known) | (more or {}))


@lru_cache(maxsize=32)  # Git is asked once
def _location(folder: Path) -> Document | None:
    return source_location(folder)


def end_events(opened: Opened, outcome: Outcome, error: object = None) -> Iterator[Document]:
    """The events of a run's steps, and of its end. `error`: what a failed run raised."""
    started, now, errors = opened.flow.started, datetime.now(UTC), []
    try:
        for step in steps_of(opened.flow):
            run = Run(
                _step_id(opened.flow, step),
                _job(step.name, "STEP", step.owner, step.facets),
                (opened.run, *opened.run.parents),
            )
            yield run.event("START", min(started, step.ended))
            failure = error_message(step.failure) if step.failure else None
            kind: Outcome = "FAIL" if step.failure else "COMPLETE"
            yield run.event(kind, step.ended, step.inputs, step.outputs, errorMessage=failure)
            started = step.ended
            errors += [(step.name, f"{sql}: its columns could not be resolved") for sql in step.inexact]
    except Exception as failure:  # the end of the run is sent all the same, and says what is missing
        log.warning("flow run %s has no lineage of its data: %s", opened.flow.id, failure)
        errors.append((opened.run.job.name, f"{type(failure).__name__}: {failure}"))
    missing = {
        "totalTasks": len(errors),
        "failedTasks": len(errors),
        "errors": [{"errorMessage": text, "task": task} for task, text in errors],
    }
    message = error_message(_message(error)) if outcome == "FAIL" else None
    yield opened.run.event(outcome, now, errorMessage=message, extractionError=missing if errors else None)


def _step_id(flow: FlowRun, step: Step) -> str:
    return str(uuid.uuid5(uuid.UUID(flow.id), step.name))


def _message(error: object) -> str:
    """An error without values of rows."""
    if isinstance(error, ValidationFailed):
        return f"{error.where}: deliveries were refused or tables are stale, see the page of validation results"
    if isinstance(error, TruecourseError):
        return f"{error.where}: {error.what}" if error.where else error.what
    return type(error).__name__ if isinstance(error, BaseException) else "the run failed"
