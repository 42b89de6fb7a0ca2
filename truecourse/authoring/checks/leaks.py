"""Leaks that the SQL shows by itself: the label's own columns in what is said to be known at the decision.

Only certain cases are faults. A label computed by windows, aggregates or a self-join may well share a column with an
honest feature (tomorrow's sales and today's), so there it keeps silent, as for SQL that sqlglot cannot follow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from truecourse.authoring.checks.column_lineage import Lineage, Origin, Sources, Untraceable
from truecourse.errors import Fault
from truecourse.problem import Problem, View

NOTHING: Sources = frozenset()


@dataclass(frozen=True)
class Truth:
    """Source columns that tell the label (`outcome`), that tell the moment it is known and not yet the decision
    (`later`), and that the decision's own moment is made of."""

    outcome: Sources
    later: Sources
    decision: Sources


def leak_faults(problem: Problem) -> Iterator[Fault]:
    """Needs a problem whose relations bind."""
    try:
        truth = _timed_truth(problem) if problem.has_spine else _plain_truth(problem)
    except Untraceable:
        return
    if truth is None or not truth.outcome:
        return
    if problem.spine is not None:
        yield from _spine_faults(problem, problem.spine, truth)
    for view in problem.views:
        yield from _view_faults(problem, view, truth)


def _plain_truth(problem: Problem) -> Truth | None:
    table, column = problem.label_table, problem.label.column
    if column is None:
        return None
    decision = frozenset({(table.name, table.time.lower())}) if table.time else NOTHING
    return Truth(frozenset({(table.name, column.lower())}), NOTHING, decision)


def _timed_truth(problem: Problem) -> Truth | None:
    if problem.spine is None or problem.label.sql is None:
        return None
    labels = Lineage(problem, problem.label.sql)
    label, known = labels.origin("label"), labels.origin("known_at")
    if labels.joins_itself or not label.row_by_row:
        return None
    decision = Lineage(problem, problem.spine).origin("decision_time").sources
    later = known.sources - decision
    outcome = label.sources & later
    if not outcome and len(label.sources) == 1:
        outcome = label.sources - decision
    return Truth(outcome, later, decision)


def _spine_faults(problem: Problem, file: str, truth: Truth) -> Iterator[Fault]:
    spine = Lineage(problem, file)
    for name in problem.request_fields:
        origin = _followed(spine, name)
        if origin and origin.row_by_row and not spine.joins_itself and origin.sources & truth.outcome:
            what = f"request field {name!r} is made from {_shown(origin.sources & truth.outcome)}, as the label: a leak"
            yield Fault(file, what, "remove it from the request: it is not known when the decision is made")


def _view_faults(problem: Problem, view: View, truth: Truth) -> Iterator[Fault]:
    try:
        query = Lineage(problem, view.sql)
    except Untraceable:
        return
    moment = None if view.timeless else _followed(query, "event_timestamp")
    if moment is not None and (moment.sources & truth.later or moment.delayed):
        return
    for name in view.features:
        origin = _followed(query, name)
        shared = origin.sources & truth.outcome if origin else NOTHING
        if not shared:
            continue
        if view.timeless:
            what = f"feature {name!r} of a timeless view is made from {_shown(shared)}, as the label: a leak"
            yield Fault(view.sql, what, "give the view an event_timestamp, the moment the outcome was known")
        elif moment is not None:
            what = (
                f"feature {name!r} is made from {_shown(shared)}, as the label, and event_timestamp from "
                f"{_shown(moment.sources) or 'no column'}, which comes before the label is known: a leak"
            )
            yield Fault(view.sql, what, "return the moment the outcome was known (known_at) as event_timestamp")


def _followed(query: Lineage, column: str) -> Origin | None:
    try:
        return query.origin(column)
    except Untraceable:
        return None


def _shown(sources: Sources) -> str:
    return ", ".join(".".join(source) for source in sorted(sources))
