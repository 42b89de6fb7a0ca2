"""`promote`, `rollback` and `canary stop`: gated promotion of a version, the return to a former champion, and the end
of a canary or shadow."""

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from cli.commands.run import run_flow
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.progress import Progress
from cli.terminal.tables import pairs, table
from services.process.platform_state import running_platform
from truecourse.deployment.bento import load_package
from truecourse.errors import ModelError, PlatformError
from truecourse.monitoring import report_store
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.settings import prefect_api_url
from truecourse.storage.object_store import open_store

Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@command
def promote(
    reason: Reason,
    version: Annotated[int | None, typer.Argument(help="A version in the registry; the challenger if empty.")] = None,
    accept_unknown: Annotated[
        bool, typer.Option("--accept-unknown", help="Promote it though gates are unknown for lack of rows.")
    ] = False,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Evaluate a version against the champion on the closed cohorts. If every gate passes, promote it, or start a
    canary where the problem has one."""
    spec = load_problem(problem)
    _require_prefect_ui(spec)
    before = aliases.current(spec.name)
    parameters = {"reason": reason, "problem": spec.name, "version": version, "accept_unknown": accept_unknown}
    with Progress(["promote"]) as progress:
        entry: Aliases = run_flow("promote", parameters, progress)
    chosen = entry.challenger if aliases.canary_in_progress(entry) else entry.champion
    assert chosen is not None
    document = _promotion(before, entry) | {"gates": registry.gates(chosen)}
    if chosen == entry.challenger and chosen != entry.champion:
        document |= {"canary": chosen.version, "next": f"truecourse run guard --problem {spec.name}, as requests come"}
    elif load_package(spec.name, chosen.version) is None:
        document["next"] = f"truecourse run package --problem {spec.name}"
    return Answer(document, _promoted_view(document))


def _require_prefect_ui(problem: Problem) -> None:
    """Raise PlatformError if approval is required and no Prefect UI runs: a temporary server has none."""
    if problem.promotion.approval and not prefect_api_url() and running_platform() is None:
        hint = "start `truecourse up`, or set PREFECT_API_URL to your Prefect server"
        raise PlatformError("promotion requires approval, and no Prefect UI is running", where=problem.name, hint=hint)


@command
def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="A former champion; the one before this one if empty.")] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Make the champion before this one champion again, at once and without gates. Repeat it to go further back."""
    name = load_problem(problem).name
    before = aliases.current(name)
    target = aliases.rollback_target(name, aliases.history(name), to)
    if load_package(name, target.version) is None:
        registry.version(name, target.version)  # raises ModelError if retention removed it
    entry = aliases.roll_back(name, reason, to)
    document = _promotion(before, entry)
    stderr().print(f"version {document['champion']} is champion again, instead of {document['before']}")
    # The registry is updated and endpoints follow it. MLflow may be down, and is written last.
    document["mirrored"] = registry.mirror_aliases(name)
    shown: dict[str, object] = {name: f"version {document[name]}" for name in ("champion", "before")}
    return Answer(document, pairs(shown | _mirror_failure(document) | {"why": reason}))


@command
def stop_canary(reason: Reason, problem: ProblemName = None, json: Json = False) -> Answer:
    """End a running canary or shadow at once: the challenger gets no more requests, and the champion stays."""
    spec = load_problem(problem)
    entry = aliases.stop_canary(spec.name, reason)
    before = aliases.ledger(spec.name).entry(entry.number - 1)
    assert before is not None
    assert entry.challenger is not None
    was = f"a canary with {before.share:.0%} of the traffic" if before.share else "a shadow"
    stderr().print(f"version {entry.challenger.version} gets no more requests; it was {was}")
    # Endpoints follow the aliases. The report and MLflow's copy are written last: neither may delay the stop.
    from truecourse.monitoring.canary import decision

    report_store.save(open_store(), decision.report_stop(spec))
    document = {
        "problem": spec.name,
        "stopped": entry.challenger.version,
        "was": {"share": before.share, "shadow": before.shadow},
        "champion": entry.champion.version if entry.champion else None,
        "entry": entry.model_dump(),
        "mirrored": registry.mirror_aliases(spec.name),
    }
    shown = {"stopped": f"version {document['stopped']}, {was}", "champion": f"version {document['champion']}"}
    return Answer(document, pairs(shown | _mirror_failure(document) | {"why": reason}))


def _mirror_failure(document: dict[str, Any]) -> dict[str, object]:
    if document["mirrored"]:
        return {}
    return {"MLflow": f"cannot be reached: truecourse mirror write --problem {document['problem']}, when it is back"}


def _promotion(before: Aliases, entry: Aliases) -> dict[str, Any]:
    if entry.champion is None:
        raise ModelError("there is no champion", where="aliases")
    return {
        "problem": entry.champion.problem,
        "champion": entry.champion.version,
        "before": before.champion.version if before.champion else None,
        "entry": entry.model_dump(),
    }


def _promoted_view(document: dict[str, Any]) -> RenderableType:
    rows = [[gate["gate"], gate["detail"]] for gate in document["gates"]]
    shown = {"champion": f"version {document['champion']}", "before": document["before"] or "none"}
    if "canary" in document:
        shown = {"canary": f"version {document['canary']} answers {document['entry']['share']:.0%}", **shown}
    shown |= {"then": document["next"]} if "next" in document else {}
    return Group(pairs(shown), table("gate", "result", rows=rows))
