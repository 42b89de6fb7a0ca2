"""Leaks that the SQL alone proves: inputs that are computed from the label's source columns.

Only certain cases are faults. A label computed by windows, aggregates or a self-join may share a column with a valid
feature (tomorrow's sales and today's), so such labels are skipped. SQL that sqlglot cannot resolve is skipped too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlglot import exp

from truecourse.authoring.checks.aggregations import expressions, parse_expression
from truecourse.authoring.checks.column_lineage import Lineage, LineageError, Origin, Sources
from truecourse.errors import Fault
from truecourse.problem import Aggregations, Problem, View

NOTHING: Sources = frozenset()


@dataclass(frozen=True)
class LabelSources:
    """Source columns of the label (`outcome`), of its known_at but not of the decision time (`later`), and of the
    decision time (`decision`)."""

    outcome: Sources
    later: Sources
    decision: Sources


def leak_faults(problem: Problem) -> Iterator[Fault]:
    """Faults for inputs that are computed from the label's columns. The problem's relations must bind."""
    try:
        truth = _sql_label_sources(problem) if problem.has_spine else _column_label_sources(problem)
    except LineageError:
        return
    if truth is None or not truth.outcome:
        return
    if problem.spine is not None:
        yield from _spine_faults(problem, problem.spine, truth)
    for view in problem.own_views:
        if isinstance(view, Aggregations):
            yield from _aggregation_faults(problem, view, truth)
        else:
            yield from _view_faults(problem, view, truth)


def _column_label_sources(problem: Problem) -> LabelSources | None:
    table, column = problem.label_table, problem.label.column
    if column is None:
        return None
    decision = frozenset({(table.name, table.time.lower())}) if table.time else NOTHING
    return LabelSources(frozenset({(table.name, column.lower())}), NOTHING, decision)


def _sql_label_sources(problem: Problem) -> LabelSources | None:
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
    return LabelSources(outcome, later, decision)


def _spine_faults(problem: Problem, file: str, truth: LabelSources) -> Iterator[Fault]:
    spine = Lineage(problem, file)
    for name in problem.request_fields:
        origin = _origin_or_none(spine, name)
        if origin and origin.row_by_row and not spine.joins_itself and origin.sources & truth.outcome:
            shared = _format_sources(origin.sources & truth.outcome)
            what = f"request field {name!r} is computed from {shared}, like the label: a leak"
            yield Fault(file, what, "remove it from the request: it is not known at decision time")


def _view_faults(problem: Problem, view: View, truth: LabelSources) -> Iterator[Fault]:
    try:
        query = Lineage(problem, view.sql)
    except LineageError:
        return
    moment = None if view.timeless else _origin_or_none(query, "event_timestamp")
    if moment is not None and (moment.sources & truth.later or moment.delayed):
        return
    for name in view.features:
        origin = _origin_or_none(query, name)
        shared = origin.sources & truth.outcome if origin else NOTHING
        if not shared:
            continue
        if view.timeless:
            columns = _format_sources(shared)
            what = f"feature {name!r} of a timeless view is computed from {columns}, like the label: a leak"
            yield Fault(view.sql, what, "give the view an event_timestamp: the time when the outcome was known")
        elif moment is not None:
            what = (
                f"feature {name!r} is computed from {_format_sources(shared)}, like the label, but event_timestamp "
                f"from {_format_sources(moment.sources) or 'no column'}, which precedes the label's known_at: a leak"
            )
            yield Fault(view.sql, what, "return the time when the outcome was known (known_at) as event_timestamp")


def _aggregation_faults(problem: Problem, view: Aggregations, truth: LabelSources) -> Iterator[Fault]:
    table = next((table for table in problem.tables if table.name == view.table), None)
    if table is None or (table.name, view.time.lower()) in truth.later or table.known_ahead < timedelta(0):
        return
    for one in expressions(problem, view):
        query = parse_expression(one.sql)
        columns = query.find_all(exp.Column) if query is not None else ()
        shared = frozenset({(table.name, column.name.lower()) for column in columns}) & truth.outcome
        if shared:
            what = (
                f"is computed from {_format_sources(shared)}, like the label, at {table.name}.{view.time}, which "
                "precedes the label's known_at: a leak"
            )
            yield Fault(one.where, what, "use the time when the outcome was known as `time`")


def _origin_or_none(query: Lineage, column: str) -> Origin | None:
    try:
        return query.origin(column)
    except LineageError:
        return None


def _format_sources(sources: Sources) -> str:
    return ", ".join(".".join(source) for source in sorted(sources))
