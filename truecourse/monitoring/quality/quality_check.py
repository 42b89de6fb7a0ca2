"""The quality check: the champion's closed cohorts compared with its baseline; what degraded, since when, and why."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import ModelError
from truecourse.features.clock import reference_time
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding, Report, summarize
from truecourse.monitoring.predictions.served_predictions import newest_decision_day_end
from truecourse.monitoring.quality.baseline import FEWEST_DAYS, load_baseline
from truecourse.monitoring.quality.cohort_closing import CohortClosing
from truecourse.monitoring.quality.cohorts import Cohort, closing_time
from truecourse.monitoring.quality.degradation import Alarm, FormerLabels, find_alarms, label_scale, threshold
from truecourse.monitoring.quality.figures import closed_figures, open_figures
from truecourse.monitoring.quality.former_champions import read_former_labels
from truecourse.monitoring.quality.label_delay import check_labels, find_selection, measure_selection
from truecourse.monitoring.quality.realised_decisions import compare_thresholds, find_threshold_drift
from truecourse.monitoring.quality.static_table_quality import QualityResult, check_untimed
from truecourse.problem import Problem
from truecourse.references import ModelVersion, naive_utc
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted


def check_quality(
    problem: Problem, tables: Tables, at: datetime | None = None, version: ModelVersion | None = None
) -> Report:
    """Check the champion (or `version`) on the cohorts that are closed at `at` (UTC).

    `at` defaults to the moment when the newest cohort closes, at most now. Predictions, labels and table rows that were
    not known by `at` are not read. The sums of closed days are stored; the next check adds new days only. Raises
    ModelError if there is no champion."""
    moment = naive_utc(at or _newest(problem, tables))
    assert moment is not None
    version = version or registry.champion(problem.name)
    if version is None:
        hint = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to check", where=f"problem {problem.name}", hint=hint)
    check = _check_cohorts if problem.has_time else check_untimed
    sentence, findings, figures, enough = check(problem, tables, version, moment)
    return Report(
        check="quality",
        problem=problem.name,
        at=moment.replace(tzinfo=UTC),
        sentence=sentence,
        made=enough or bool(findings),
        findings=tuple(findings),
        figures={"version": version.version, "open": []} | figures,
    )


def close_cohorts(problem: Problem, tables: Tables, at: datetime, before: datetime) -> None:
    """Sum and store the champion's cohorts that are closed at `at` and end by `before` (UTC).

    A check at `at` does the same first. It can be called while later predictions are still made."""
    version, moment, end = registry.champion(problem.name), naive_utc(at), naive_utc(before)
    assert moment is not None
    assert end is not None
    if version is not None and problem.has_time:
        CohortClosing(problem, tables, version, load_baseline(problem, tables, version), moment).close(end)


def _newest(problem: Problem, tables: Tables) -> datetime:
    now = reference_time(problem, tables)
    end = newest_decision_day_end(problem, tables) if problem.has_time else None
    return min(end + problem.label.closes_after, now) if end else now


def _check_cohorts(problem: Problem, tables: Tables, version: ModelVersion, moment: datetime) -> QualityResult:
    baseline = load_baseline(problem, tables, version)
    closing = CohortClosing(problem, tables, version, baseline, moment)
    days, waiting = closing.cohorts()
    figures = open_figures(waiting)
    is_champion = version == registry.champion(problem.name)
    former = read_former_labels(problem, tables, version, days, moment) if is_champion else []
    classes = baseline.model.vocabulary.classes
    if not days:
        findings = _degradation(problem, version, classes, [], [], [], former)
        return summarize(findings, _describe_open(problem, version, waiting)), findings, figures, False
    findings = check_labels(problem, baseline.coverage, days)
    scored = [one for one in days if one.labelled and closing.is_scorable(one)]
    reference, description = baseline.reference(problem, days[0].day, moment)
    rule = baseline.model.decision
    figures |= closed_figures(problem, reference, days, scored, rule) | {"reference": description}
    inside = [one for one in scored if figures.get("window") and str(one.day) >= figures["window"][0]]
    if rule is not None:
        figures["thresholds"] = compare_thresholds(rule, baseline.edges, inside)
        findings += find_threshold_drift(figures["thresholds"])
    own = baseline.label_days(reference, days[0].day)
    selection = measure_selection(inside, own)
    if selection is not None:
        base_rate = figures.get("metrics", {}).get("base_rate", {}).get("now", {}).get("value")
        selection = selection if base_rate is not None else replace(selection, base_rate=None)
        figures["selection"] = selection.figures()
        findings += find_selection(problem, selection, base_rate)
    findings += _degradation(problem, version, classes, reference, own, scored if reference else [], former)
    enough = "metrics" in figures and len(reference) >= FEWEST_DAYS
    summary = summary_sentence(problem, figures, len(reference))
    return summarize(findings, summary), findings, figures, enough


def _describe_open(problem: Problem, version: ModelVersion, waiting: Sequence[Cohort]) -> str:
    message = f"No cohort of model version {version.version} is closed yet"
    if not waiting:
        return f"{message}, and none is open: score decisions, or serve them."
    first = waiting[0].day
    closes_at = closing_time(first, problem.label.closes_after)
    return f"{message}. The first, of {first}, closes at {closes_at} UTC."


def _degradation(
    problem: Problem,
    version: ModelVersion,
    classes: Sequence[str],
    reference: Sequence[Cohort],
    own: Sequence[Cohort],
    days: Sequence[Cohort],
    former: Sequence[FormerLabels],
) -> list[Finding]:
    """Run the degradation test. `own`: the label model's baseline days. `classes`: empty for a regression."""
    scale, loss = label_scale(problem.kind, reference)
    watch, number = problem.monitoring.quality, version.version
    alarms = find_alarms(reference, own, days, watch, scale, loss, len(classes), number, former)
    rules = [alarm for alarm in alarms if alarm.stream in ("labels", "turned")]
    if not alarms:
        return []
    if rules:  # another label rule is not a degradation of the model
        return [_finding(problem, version, classes, "label", "label rule", rules)]
    return [_finding(problem, version, classes, problem.metric, "concept drift", alarms)]


def _finding(
    problem: Problem, version: ModelVersion, classes: Sequence[str], subject: str, cause: Cause, alarms: Sequence[Alarm]
) -> Finding:
    """Return one finding for all alarms of a cause."""
    strongest = max(alarms, key=lambda alarm: alarm.evidence)
    figures: dict[str, Any] = {"since": str(strongest.since), "versions": list(strongest.versions)}
    figures["threshold"] = threshold(problem.monitoring.quality, len(classes))
    # Of the classes whose labels were flipped, keep the one with the most evidence.
    for alarm in sorted(alarms, key=lambda alarm: alarm.evidence):
        figures[alarm.stream] = {"size": alarm.size, "evidence": alarm.evidence}
    shown = [strongest] if cause == "label rule" else alarms
    sentences = [_SENTENCES[alarm.stream](problem, classes, alarm) for alarm in shown]
    if strongest.versions != (version.version,):
        sentences.append(f"These are labels of predictions by {_describe_versions(strongest.versions)}.")
    return Finding(
        check="quality", subject=subject, cause=cause, page=True, sentence=" ".join(sentences), figures=figures
    )


def _describe_versions(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"model versions {', '.join(others)} and {last}" if others else f"model version {last}"


def _describe_rule(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    off = f"{100 * alarm.size:.1f} of 100 labels differ from what their features and label delay predict"
    if problem.kind == "regression":
        off = f"labels are {alarm.size:.2f} standard deviations farther than usual from what their features and label "
        off += "delay predict"
    side = {1: "; they are higher", -1: "; they are lower", 0: ""}[alarm.direction]
    return f"Labels follow another rule since {alarm.since}: {off}{side}."


def _describe_flips(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    message = f"Labels follow another rule since {alarm.since}"
    if problem.kind == "regression":
        off = f"{alarm.size:.2f} standard deviations {('above', 'below')[alarm.direction]}"
        return f"{message}: they are {off} what their features and label delay predict."
    name, share = classes[alarm.direction], 100 * alarm.size
    return f"{message}: of 100 labels that their features and label delay predict to be {name}, {share:.0f} are not."


def _describe_residual(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    side = "above" if alarm.direction > 0 else "below"
    message = f"Outcomes have been {side} the predictions since {alarm.since}"
    return f"{message}, by {alarm.size:.2f} of their standard deviation."


def _describe_loss(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    than = "on held-out days" if problem.kind == "regression" else "the scores expect"
    message = f"The model has been losing quality since {alarm.since}"
    return f"{message}: its loss is {100 * alarm.size:.0f}% higher than {than}."


_SENTENCES = {
    "labels": _describe_rule,
    "turned": _describe_flips,
    "residual": _describe_residual,
    "loss": _describe_loss,
}


def summary_sentence(problem: Problem, figures: dict[str, Any], reference: int) -> str:
    metric = figures.get("metrics", {}).get(problem.metric)
    if metric is None:
        return "Cohorts are closed, but none has its labels yet."
    (first, last), now = figures["window"], metric["now"]["value"]
    summary = f"{problem.metric.replace('_', ' ').capitalize()} is {now:.4f} on the closed cohorts of {first} to {last}"
    excess = figures["metrics"].get("excess_loss")
    if excess is not None:
        summary += f" ({excess['now']['value']:+.4f} relative to what the scores expect)"
    if reference:
        summary += f", {metric['reference']['value']:.4f} on {figures['reference']}"
    if reference >= FEWEST_DAYS:
        return f"{summary}; no lasting change of quality."
    few = f"only {counted(reference, 'day')} of the {FEWEST_DAYS} required" if reference else "no day"
    return f"{summary}. Whether it changed is unknown: {few} of baseline before them."
