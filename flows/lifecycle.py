"""Run every step once: from sources to a packaged champion, its predictions and a drift check."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.ingest import ingest
from flows.materialize import materialize
from flows.monitor import monitor
from flows.package import package
from flows.register import register
from flows.score import score
from flows.train import train
from flows.validate import validate
from tasks.data.validate import accepted_versions, raw_versions
from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.state import current_state
from truecourse.authoring.checks.run_checks import require_valid
from truecourse.errors import SourceError, TruecourseError, ValidationFailed
from truecourse.problem import Problem, TimeSplit
from truecourse.problem.definition import midnight
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import changed_parts


@flow(name="lifecycle", flow_run_name=run_name, **hooks())
def lifecycle(problem: str | None = None, tune: bool = False, until: datetime | None = None) -> dict[str, Any]:
    """Run every flow in order; each does only what is missing.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        tune: search the declared parameter space before training.
        until: the time (UTC) up to which labels count and features are loaded online; the data's end if empty.

    A step is not repeated for the same inputs. Without new data the result has `nothing_new`, and tables, model,
    aliases and online store stay as they were.

    A refused delivery does not block the accepted rows: all steps run with them, and the run fails at the end. A model
    that fails a gate is registered as challenger only; packaging, scoring and monitoring then use the champion, if
    there is one. Raises ProblemError before anything is read if the specification is invalid, and what the flows raise.
    """
    spec = open_problem(problem)
    require_valid(spec)
    name = spec.name
    before = current_state(spec)
    refused: TruecourseError | None = None
    try:
        ingested = ingest(name)
    except SourceError as error:
        ingested, refused = raw_versions(spec), error
    try:
        validated = validate(name)
    except ValidationFailed as error:
        validated, refused = accepted_versions(spec, error), refused or error
    materialized = materialize(name, until=until)
    run = train(name, until=until, tune=tune)
    registered = register(name, run_id=run.run_id)
    summary = {
        "problem": name,
        "ingest": ingested,
        "validate": validated,
        "materialize": materialized,
        "train": run,
        "register": registered,
        "champion": (champion := registry.champion(name)),
        "champion_outdated": changed_parts(spec, champion) if champion else [],
    }
    if champion is not None:
        if not summary["champion_outdated"]:
            summary["package"] = package(name)
            summary["score"] = score(name, start=_first_unseen(spec), end=until)
        summary["monitor"] = monitor(name)
    if refused is not None:  # accepted rows are used, but the run still fails
        raise refused
    return summary | {"nothing_new": current_state(spec) == before}


def _first_unseen(problem: Problem) -> datetime | None:
    """The first decision time that is used neither for training nor for model selection; None for a random split."""
    return midnight(problem.split.validate_until) if isinstance(problem.split, TimeSplit) else None
