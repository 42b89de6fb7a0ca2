"""Explore a source: every part of the result, in order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow.compute as pc

from truecourse.catalogue.distributions import Distribution, distributions
from truecourse.exploration import association, columns, coverage, keys, missing, relation, suspects
from truecourse.exploration.records import ColumnSummary, Exploration, Finding
from truecourse.exploration.source import Roles, Source
from truecourse.problem.definition import Kind
from truecourse.wording import counted

_MOST_CLASSES = 50
_SHIFTED = 0.25
"""The population stability index from which on a column drifts."""
Step = Callable[[str], None]


def explore(source: Source, step: Step = lambda name: None, now: datetime | None = None) -> Exploration:
    """Explore the rows of a source. `step`: called with the name of each step before it."""
    step("count and describe columns")
    summaries = columns.summarize(source)
    source = replace(source, roles=_complete(source, summaries))
    step("read missing values and times")
    patterns, complete = missing.missing_patterns(source, summaries)
    covered = coverage.time_coverage(source, now)
    step("search keys and duplicates")
    found_keys = keys.find_keys(source, summaries)
    duplicates, compared = keys.count_duplicates(source, found_keys)
    step("relate columns to the label and over time")
    summaries = _related(source, summaries)
    step("measure pairs of columns")
    associated, pairs = association.associate(source, summaries)
    step("search leaks")
    leaks = suspects.find_suspects(source, summaries)
    if duplicates.rows:
        leaks += suspects.copy_suspects(source, compared)
    findings = [
        *leaks,
        *columns.column_findings(source, summaries),
        *keys.duplicate_findings(source, duplicates),
        *association.duplicate_columns(source, pairs),
        *coverage.coverage_findings(covered),
        *_label_findings(source, summaries),
        *_shifts(source, summaries),
    ]
    return Exploration(
        name=source.name, title=source.title, origin=source.origin, at=now or datetime.now(UTC), rows=source.rows,
        sampled=len(source.sample), label=source.roles.label, label_kind=source.roles.kind or "",
        time=source.roles.time, columns=tuple(summaries), left_out=dict(source.left_out), notes=source.notes,
        findings=tuple(findings), patterns=patterns, complete_rows=complete, keys=tuple(found_keys),
        duplicates=duplicates, coverage=tuple(covered), pairs=tuple(pairs), associated=associated,
    )  # fmt: skip


def _complete(source: Source, summaries: list[ColumnSummary]) -> Roles:
    """The roles, with the kind of the label; the only time column that every row has is the time of the decision."""
    roles = source.roles
    if roles.label and roles.kind is None:
        roles = replace(roles, kind=_kind(source, summaries))
    times = [s.name for s in summaries if s.type == "Time" and not s.missing + s.unreadable and s.name != roles.label]
    if not roles.time and len(times) == 1:
        roles = replace(roles, time=times[0])
    return roles


def _kind(source: Source, summaries: list[ColumnSummary]) -> Kind | None:
    """The kind of a file's label: two values are classes, and so are texts and up to 10 whole numbers."""
    column = source.column(source.roles.label)
    summary = next(s for s in summaries if s.name == column.name)
    if summary.distinct < 2 or column.form == "time":
        return None
    if summary.distinct == 2:
        return "binary"
    if column.form == "category":
        return "multiclass" if summary.distinct <= _MOST_CLASSES else None
    whole = column.type == "Integer" and summary.distinct <= 10
    return "multiclass" if whole else "regression"


def _related(source: Source, summaries: list[ColumnSummary]) -> list[ColumnSummary]:
    """The summaries with each column's relation to the label, shift, and distribution over time."""
    target = relation.target(source)
    over_time = _over_time(source)
    found = []
    for column, summary in zip(source.columns, summaries, strict=True):
        extra: dict[str, object] = {"over_time": over_time.get(column.sql)}
        if column.role != "split":
            bins = relation.bins(source, column)
            is_input = column.name != source.roles.label and column.name not in source.roles.keys
            if target is not None and is_input and summary.distinct > 1:
                extra["relation"] = relation.explained(target, bins)
            if column.form != "time" and not _is_identifier(summary):
                extra["shift"] = relation.shift(source, bins)
        found.append(summary.model_copy(update=extra))
    return found


def _is_identifier(summary: ColumnSummary) -> bool:
    return summary.type in ("Integer", "Text") and summary.distinct > 0.9 * (summary.rows - summary.missing)


def _over_time(source: Source) -> dict[str, Distribution]:
    """The distribution of each column by period, in the sample; without values for private columns."""
    time = source.column(source.roles.time).sql if source.roles.time else None
    sample = source.sample
    if time is not None:
        sample = sample.filter(pc.is_valid(sample.column(time))).sort_by(time)
    if time is None or not len(sample):
        return {}
    names = [column.sql for column in source.columns if column.form != "time"]
    found = distributions(sample, names, time)
    private = {column.sql for column in source.columns if column.private}
    return {name: each.without_values() if name in private else each for name, each in found.items()}


def _label_findings(source: Source, summaries: list[ColumnSummary]) -> list[Finding]:
    label = source.roles.label
    if not label:
        return []
    summary = next(s for s in summaries if s.name == label)
    if source.roles.kind is None:
        what = f"{label} cannot be a label: it has {counted(summary.distinct, 'value')}"
        return [Finding(topic="label", columns=(label,), sentence=what)]
    return []


def _shifts(source: Source, summaries: list[ColumnSummary]) -> list[Finding]:
    shifted = [s for s in summaries if s.shift is not None and s.shift >= _SHIFTED]
    return [
        Finding(
            topic="drift",
            columns=(s.name,),
            sentence=f"{s.name} drifts: its last third by {source.roles.time} differs from the first "
            f"(population stability index {s.shift:.2f})",
        )
        for s in sorted(shifted, key=lambda s: -(s.shift or 0))
    ]
