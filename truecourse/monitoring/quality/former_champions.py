"""The label evidence of former champions and canaries: a promotion or a rollback discards none of it.

A label follows a rule, whichever model predicted it. So the detectors of the label rule use the closed cohorts of all
versions that answered in the last weeks, each cohort once. Evidence about scores and loss is about one model, and
starts with it.
"""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from truecourse.monitoring.predictions.served_predictions import read_served
from truecourse.monitoring.quality.baseline import QualityBaseline, load_baseline, stored_baseline
from truecourse.monitoring.quality.cohort_closing import HORIZON, CohortClosing
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.degradation import FormerLabels, label_scale
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion, aware_utc
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables

_MOST = 12
"""Other versions that are read at most: a check takes bounded time, however often versions are promoted."""
_NO_RULE = {"description", "unit", "lookback", "closes_after"}
"""Parts of a label's declaration that do not change labels."""


def read_former_labels(
    problem: Problem, tables: Tables, champion: ModelVersion, own: Sequence[Cohort], at: datetime
) -> list[FormerLabels]:
    """Read the closed cohorts of former champions and canaries within HORIZON before `at` (naive UTC), newest first.

    `own`: the champion's closed cohorts. Versions that were trained on another definition of the label, and versions
    that retention removed, are left out."""
    horizon, rule = (at - HORIZON).date() + timedelta(days=1), _label_rule(champion)
    entries = _entries_since(horizon, aliases.history(problem.name))
    first_entries = {version.version: entry for entry in entries for version in _answering(entry)}
    first_days = {champion.version: own[0].day if own else None}
    found = []
    for entry in entries:
        answering = _answering(entry)
        for version in answering:
            if version.version in first_days or len(first_days) > _MOST:
                continue
            cohorts, baseline = _closed_cohorts(problem, tables, version, rule, at)
            first_days[version.version] = cohorts[0].day if cohorts else None
            days = [one for one in cohorts if one.day >= horizon]
            if baseline is not None and days:
                found.append(_former_labels(problem, baseline, version, days, at))
        began = [first_days.get(one.version) for one in answering if first_entries[one.version] is entry]
        if any(day is not None and day <= horizon for day in began):
            break  # versions of earlier entries answered before HORIZON only
    return found


def _entries_since(horizon: date, entries: Sequence[Aliases]) -> list[Aliases]:
    """Return the entries that were current on `horizon` or later, newest first.

    Decisions may be older than the entries, as with the clock of the data, but not newer."""
    until: list[datetime | None] = [*(following.at for following in entries[1:]), None]
    return [entry for entry, end in zip(entries, until, strict=True) if end is None or end.date() >= horizon][::-1]


def _answering(entry: Aliases) -> list[ModelVersion]:
    """Return the versions that answer requests."""
    challenger = entry.challenger if entry.share else None
    return [version for version in (challenger, entry.champion) if version is not None]


def _closed_cohorts(
    problem: Problem, tables: Tables, version: ModelVersion, rule: dict[str, Any], at: datetime
) -> tuple[list[Cohort], QualityBaseline | None]:
    if registry.ledger(problem.name).entry(version.version) is None or _label_rule(version) != rule:
        return [], None
    baseline = stored_baseline(problem, tables, version)
    if baseline is None:
        if not _has_served(problem, tables, version, at):
            return [], None
        baseline = load_baseline(problem, tables, version)
    return CohortClosing(problem, tables, version, baseline, at).scored_cohorts(), baseline


def _has_served(problem: Problem, tables: Tables, version: ModelVersion, at: datetime) -> bool:
    """Whether the version made a prediction within HORIZON; computing a baseline takes long."""
    days = [at.date() - timedelta(days=number) for number in range(HORIZON.days, -1, -1)]
    return len(read_served(problem, tables, version.version, [], aware_utc(at), outputs=days).rows) > 0


def _former_labels(
    problem: Problem, baseline: QualityBaseline, version: ModelVersion, days: Sequence[Cohort], at: datetime
) -> FormerLabels:
    reference, _ = baseline.reference(problem, days[0].day, at)
    scale, _ = label_scale(problem.kind, reference)
    return FormerLabels(version.version, baseline.label_days(reference, days[0].day), days, scale)


def _label_rule(version: ModelVersion) -> dict[str, Any]:
    """Return what defines the labels that a version was trained on: declaration, SQL and classes."""
    document = json.loads(runs.artifact(version.run_id, "model/problem.json"))
    vocabulary = json.loads(runs.artifact(version.run_id, "model/vocabulary.json"))
    label, relations = document["label"], document.get("relations", {})
    files = [name for name in (label.get("sql"), *relations.values()) if name]
    return {
        "kind": document["kind"],
        "label": {name: part for name, part in label.items() if name not in _NO_RULE},
        "sql": {name: document.get("sql", {}).get(name) for name in files},
        "classes": vocabulary.get("classes"),
    }
