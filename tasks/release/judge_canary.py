"""Watch over the canary: judge what it answered, and widen its share, promote it, or take its share back."""

import logging
from datetime import UTC, datetime

from prefect import task

from tasks.release.promote import evaluate_version
from tasks.retry import RETRY
from tasks.training.snapshot import take_snapshot
from truecourse.errors import ModelError
from truecourse.monitoring import report_store
from truecourse.monitoring.canary import decision as guarding
from truecourse.monitoring.canary.decision import Decision, apply_gates
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.registry.aliases import WIDEN, WITHDRAW
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.problem.promotion")


@task(name="judge canary", **RETRY)
def evaluate_canary(problem: str) -> tuple[Aliases, Decision]:
    """The aliases as they stand, and what the log says is to become of their challenger."""
    entries = aliases.history(problem)
    return (
        entries[-1] if entries else aliases.current(problem),
        guarding.decide(load_problem(problem), Tables(), entries),
    )


def reevaluate_gates(problem: str, decision: Decision) -> Decision:
    """The decision to promote once the gates were asked about the cohorts that are closed by now: what labels that came
    meanwhile say of its quality. Where those are too few, what the gates said before counts. To be called from a flow.
    """
    step = decision.step
    assert step is not None
    try:
        verdicts = evaluate_version(problem, step.challenger, step.champion, take_snapshot(problem))
    except ModelError as error:
        log.warning("the gates' earlier verdicts count: %s", error)
        verdicts = registry.gates(step.challenger)
        if not verdicts:
            raise
    return apply_gates(decision, verdicts)


@task(name="move canary", **RETRY)
def apply_canary_decision(problem: str, seen: Aliases, decision: Decision) -> Report:
    """Make the one move that was decided, unless the aliases have moved since `seen`; the report of it is kept."""
    store, overtaken = open_store(), None
    try:
        _move(problem, seen, decision)
    except ModelError as error:
        overtaken = aliases.current(problem)
        if overtaken.number == seen.number:
            raise
        log.warning("%s", error)
    entries = aliases.history(problem)
    _mirror(store, problem, entries)
    report = guarding.report(load_problem(problem), decision, entries, datetime.now(UTC))
    if overtaken is not None:
        said = f"The aliases were moved meanwhile ({overtaken.action}): {overtaken.reason}."
        report = report.model_copy(update={"sentence": said})
    keep = report_store.refresh if decision.action in ("rest", "wait") else report_store.save
    keep(store, report)
    log.info("%s", report.sentence)
    return report


def _move(problem: str, seen: Aliases, decision: Decision) -> None:
    if decision.step is None or decision.action in ("rest", "wait"):
        return
    told = f"{decision.reason} (at {decision.step.share:.0%})"
    if decision.action == "promote":
        registry.promote(seen, decision.step.challenger, told)
    elif decision.action == "widen":
        registry.move_aliases(seen, problem, WIDEN, told, share=decision.share)
    else:
        registry.move_aliases(seen, problem, WITHDRAW, told, share=0.0)


def _mirror(store: ObjectStore, problem: str, entries: list[Aliases]) -> None:
    """Make up for one that was killed between its move and MLflow's aliases: it left no report of that move."""
    before = report_store.latest(store, problem, "canary")
    if entries and (before is None or before.figures.get("entry") != entries[-1].number):
        registry.mirror_aliases(problem)
