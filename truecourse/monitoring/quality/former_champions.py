"""The label evidence of former champions: a promotion or a rollback discards none of it.

A label follows a rule, whichever model predicted it. So the detectors of the label rule use the closed cohorts of all
champions of the last weeks, each cohort once. Evidence about scores and loss is about one model, and starts with it.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from truecourse.monitoring.predictions.served_predictions import read_served
from truecourse.monitoring.quality.baseline import QualityBaseline, baseline_prefix, load_baseline
from truecourse.monitoring.quality.cohort_closing import HORIZON, CohortClosing
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.degradation import FormerLabels, label_scale
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion, aware_utc
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables

_MOST = 12
"""Former champions that are read at most: a check takes bounded time, however often versions are promoted."""
_NO_RULE = {"description", "unit", "lookback", "closes_after"}
"""Parts of a label's declaration that do not change labels."""


def read_former_labels(
    problem: Problem, tables: Tables, champion: ModelVersion, own: Sequence[Cohort], at: datetime
) -> list[FormerLabels]:
    """Read the closed cohorts of former champions within HORIZON before `at` (naive UTC), the newest champion first.

    `own`: the champion's closed cohorts. Versions that were trained on another definition of the label, and versions
    that retention removed, are left out."""
    horizon, rule = (at - HORIZON).date() + timedelta(days=1), _label_rule(champion)
    first_days = {champion.version: own[0].day if own else None}
    found = []
    for version, is_first_reign in _reigns(aliases.history(problem.name)):
        if version.version not in first_days:
            if len(first_days) > _MOST:
                break
            cohorts, baseline = _closed_cohorts(problem, tables, version, rule, at)
            first_days[version.version] = cohorts[0].day if cohorts else None
            days = [one for one in cohorts if one.day >= horizon]
            if baseline is not None and days:
                found.append(_former_labels(problem, baseline, version, days, at))
        first = first_days[version.version]
        if is_first_reign and first is not None and first <= horizon:
            break  # champions before it served before HORIZON
    return found


def _reigns(entries: Sequence[Aliases]) -> list[tuple[ModelVersion, bool]]:
    """List the champions, newest first, once for each entry, each with whether it is the version's first entry."""
    champions = [entry.champion for entry in reversed(entries) if entry.champion is not None]
    first = {version.version: place for place, version in enumerate(champions)}
    return [(version, first[version.version] == place) for place, version in enumerate(champions)]


def _closed_cohorts(
    problem: Problem, tables: Tables, version: ModelVersion, rule: dict[str, Any], at: datetime
) -> tuple[list[Cohort], QualityBaseline | None]:
    if registry.ledger(problem.name).entry(version.version) is None or _label_rule(version) != rule:
        return [], None
    is_stored = tables.store.exists(f"{baseline_prefix(version)}/baseline.json")
    if not is_stored and not _has_served(problem, tables, version, at):
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
