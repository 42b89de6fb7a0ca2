"""`promote` and `rollback`: into office past the gates, and the way back."""

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from cli.commands.run import run_flow
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.progress import Progress
from cli.terminal.tables import pairs, table
from services.process.platform import running_platform
from truecourse.deployment.bento import load_package
from truecourse.errors import ModelError, PlatformError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.settings import prefect_api_url

Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@command
def promote(
    reason: Reason,
    version: Annotated[int | None, typer.Argument(help="A version in the registry; the challenger if empty.")] = None,
    accept_unknown: Annotated[
        bool, typer.Option("--accept-unknown", help="Promote it though gates could not be judged, for want of rows.")
    ] = False,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Judge a version against the champion on the cohorts closed by now, and make it champion if every gate is open, or
    a canary where the problem asks for one."""
    spec = load_problem(problem)
    _require_somebody(spec)
    seen = aliases.current(spec.name)
    parameters = {"reason": reason, "problem": spec.name, "version": version, "accept_unknown": accept_unknown}
    with Progress(["promote"]) as progress:
        entry: Aliases = run_flow("promote", parameters, progress)
    chosen = entry.challenger if aliases.canary_in_progress(entry) else entry.champion
    assert chosen is not None
    document = _moved(seen, entry) | {"gates": registry.gates(chosen)}
    if chosen == entry.challenger and chosen != entry.champion:
        document |= {"canary": chosen.version, "next": f"truecourse run guard --problem {spec.name}, as requests come"}
    elif load_package(spec.name, chosen.version) is None:
        document["next"] = f"truecourse run package --problem {spec.name}"
    return Answer(document, _promoted_view(document))


def _require_somebody(problem: Problem) -> None:
    """A server that is started for the command alone has no UI in which a person could approve."""
    if problem.promotion.approval and not prefect_api_url() and running_platform() is None:
        hint = "start `truecourse up`, or name your Prefect server in PREFECT_API_URL"
        raise PlatformError("a person has to approve, and no Prefect UI is running", where=problem.name, hint=hint)


@command
def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="A former champion; the one before this one if empty.")] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Put the champion before this one in office again, at once and past no gate. Repeated, it goes further back."""
    name = load_problem(problem).name
    seen = aliases.current(name)
    entry = aliases.roll_back(name, reason, to)
    document = _moved(seen, entry)
    stderr().print(f"version {document['champion']} is champion again, instead of {document['before']}")
    # The ledger has decided, and endpoints follow it: MLflow, which may be what is down, can wait.
    document["mirrored"] = registry.mirror_aliases(name)
    told: dict[str, object] = {"champion": f"version {document['champion']}", "before": f"version {document['before']}"}
    if not document["mirrored"]:
        told["MLflow"] = f"cannot be reached: truecourse mirror write --problem {name}, when it is back"
    return Answer(document, pairs(told | {"why": reason}))


def _moved(seen: Aliases, entry: Aliases) -> dict[str, Any]:
    if entry.champion is None:
        raise ModelError("nobody is in office", where="aliases")
    return {
        "problem": entry.champion.problem,
        "champion": entry.champion.version,
        "before": seen.champion.version if seen.champion else None,
        "entry": entry.model_dump(),
    }


def _promoted_view(document: dict[str, Any]) -> RenderableType:
    rows = [[gate["gate"], gate["detail"]] for gate in document["gates"]]
    told = {"champion": f"version {document['champion']}", "before": document["before"] or "nobody"}
    if "canary" in document:
        told = {"canary": f"version {document['canary']} answers {document['entry']['share']:.0%}", **told}
    told |= {"then": document["next"]} if "next" in document else {}
    return Group(pairs(told), table("gate", "seen", rows=rows))
