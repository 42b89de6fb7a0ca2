"""Evaluate the running canary, and increase its traffic, promote it, or roll it back."""

import logging
from datetime import UTC, datetime

from prefect import task

from tasks.release.promote import evaluate_version
from tasks.retry import RETRY
from tasks.training.build_snapshot import take_snapshot
from truecourse.errors import ModelError
from truecourse.monitoring import report_store
from truecourse.monitoring.canary import decision as guarding
from truecourse.monitoring.canary.decision import Decision, apply_gates
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.registry.aliases import CANARY_ROLLBACK, WIDEN
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, open_store

log = logging.getLogger("truecourse.problem.promotion")


@task(name="evaluate canary", **RETRY)
def evaluate_canary(problem: str) -> tuple[Aliases, Decision]:
    """The current aliases, and the decision about their challenger from the prediction log."""
    entries = aliases.history(problem)
    return (
        entries[-1] if entries else aliases.current(problem),
        guarding.decide(load_problem(problem), Tables(), entries),
    )


def reevaluate_gates(problem: str, decision: Decision) -> Decision:
    """Confirm a decision to promote with the gates, evaluated on the cohorts that have closed since the canary started.

    If there are too few labelled rows, the earlier gate results count. Call it from a flow."""
    step = decision.step
    assert step is not None
    try:
        results = evaluate_version(problem, step.challenger, step.champion, take_snapshot(problem))
    except ModelError as error:
        log.warning("using the earlier gate results: %s", error)
        results = registry.gates(step.challenger)
        if not results:
            raise
    return apply_gates(decision, results)


@task(name="apply canary decision", **RETRY)
def apply_canary_decision(problem: str, before: Aliases, decision: Decision) -> Report:
    """Apply the decision, unless the aliases changed since `before`; stores and returns the report."""
    store, overtaken = open_store(), None
    try:
        _move_aliases(problem, before, decision)
    except ModelError as error:
        overtaken = aliases.current(problem)
        if overtaken.number == before.number:
            raise
        log.warning("%s", error)
    entries = aliases.history(problem)
    _mirror_aliases(store, problem, entries)
    report = guarding.report(load_problem(problem), decision, entries, datetime.now(UTC))
    if overtaken is not None:
        sentence = f"The aliases were changed meanwhile ({overtaken.action}): {overtaken.reason}."
        report = report.model_copy(update={"sentence": sentence})
    save_report = report_store.refresh if decision.action in ("rest", "wait") else report_store.save
    save_report(store, report)
    log.info("%s", report.sentence)
    return report


def _move_aliases(problem: str, before: Aliases, decision: Decision) -> None:
    if decision.step is None or decision.action in ("rest", "wait"):
        return
    reason = f"{decision.reason} (at {decision.step.share:.0%})"
    if decision.action == "promote":
        registry.promote(before, decision.step.challenger, reason)
    elif decision.action == "widen":
        registry.move_aliases(before, problem, WIDEN, reason, share=decision.share)
    else:
        registry.move_aliases(before, problem, CANARY_ROLLBACK, reason, share=0.0)


def _mirror_aliases(store: ObjectStore, problem: str, entries: list[Aliases]) -> None:
    """Copy the aliases to MLflow if the last change has no report: that run stopped before it copied them."""
    newest = report_store.latest(store, problem, "canary")
    if entries and (newest is None or newest.figures.get("entry") != entries[-1].number):
        registry.mirror_aliases(problem)
