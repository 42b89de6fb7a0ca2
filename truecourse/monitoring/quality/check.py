"""Model quality on closed cohorts, against the model's own held-out days: what was lost, since when, and by what."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from truecourse.errors import ModelError
from truecourse.features.clock import reference_time
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.predictions.effective import newest_decision_day_end
from truecourse.monitoring.quality.baseline import FEWEST_DAYS, load_baseline
from truecourse.monitoring.quality.cohort_closing import CohortClosing
from truecourse.monitoring.quality.cohorts import Cohort, closing_time
from truecourse.monitoring.quality.degradation import Alarm, find_alarms, threshold
from truecourse.monitoring.quality.figures import closed_figures, open_figures
from truecourse.monitoring.quality.label_delay import check_labels, check_selection
from truecourse.monitoring.quality.untimed import QualityResult, check_untimed
from truecourse.monitoring.wording import summarize
from truecourse.problem import Problem
from truecourse.references import ModelVersion, naive_utc
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables
from truecourse.wording import counted


def check_quality(
    problem: Problem, tables: Tables, at: datetime | None = None, version: ModelVersion | None = None
) -> Report:
    """The champion (or `version`) on its predictions whose cohorts are closed at `at` (UTC; when the newest one closes,
    but not later than now, if None).

    No prediction, label or table row is read that was not known by `at`. Counted days are kept in object storage, and
    the next check adds what is new. Raises ModelError if there is no champion."""
    moment = naive_utc(at or _newest(problem, tables))
    assert moment is not None
    version = version or registry.champion(problem.name)
    if version is None:
        hint = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to judge", where=f"problem {problem.name}", hint=hint)
    judged = _checked if problem.has_time else check_untimed
    sentence, findings, figures, enough = judged(problem, tables, version, moment)
    return Report(
        check="quality",
        problem=problem.name,
        at=moment.replace(tzinfo=UTC),
        sentence=sentence,
        made=enough or bool(findings),
        findings=tuple(findings),
        figures={"version": version.version, "open": []} | figures,
    )


def _newest(problem: Problem, tables: Tables) -> datetime:
    now = reference_time(problem, tables)
    end = newest_decision_day_end(problem, tables) if problem.has_time else None
    return min(end + problem.label.closes_after, now) if end else now


def _checked(problem: Problem, tables: Tables, version: ModelVersion, moment: datetime) -> QualityResult:
    measure = load_baseline(problem, tables, version)
    closing = CohortClosing(problem, tables, version, measure, moment)
    days, waiting = closing.look()
    figures = open_figures(waiting)
    if not days:
        return _nothing(problem, version, waiting), [], figures, False
    findings = check_labels(problem, measure.coverage, days)
    scored = [one for one in days if one.labelled and closing.scored(one)]
    reference, words = measure.reference(problem, days[0].day, moment)
    figures |= closed_figures(problem, reference, days, scored) | {"reference": words}
    inside = [one for one in scored if figures.get("window") and str(one.day) >= figures["window"][0]]
    base_rate = figures.get("metrics", {}).get("base_rate", {}).get("now", {}).get("value")
    findings += check_selection(problem, inside, base_rate)
    if scored and reference:
        earlier = [one for one in measure.out_of_fold if one not in reference and one.day < days[0].day]
        findings += _lost(problem, measure.model.vocabulary.classes, reference, [*earlier, *reference], scored)
    enough = "metrics" in figures and len(reference) >= FEWEST_DAYS
    well = _well(problem, figures, len(reference))
    return summarize(findings, well), findings, figures, enough


def _nothing(problem: Problem, version: ModelVersion, waiting: Sequence[Cohort]) -> str:
    said = f"No cohort of model version {version.version} is closed yet"
    if not waiting:
        return f"{said}, and none is open: score decisions, or serve them."
    first = waiting[0].day
    closes_at = closing_time(first, problem.label.closes_after)
    return f"{said}. The first, of {first}, closes at {closes_at} UTC."


def _lost(
    problem: Problem,
    classes: Sequence[str],
    reference: Sequence[Cohort],
    own: Sequence[Cohort],
    days: Sequence[Cohort],
) -> list[Finding]:
    """`classes`: of the label; none of a regression."""
    rows = sum(one.labelled for one in reference)
    loss = sum(one.loss for one in reference) / rows
    variance = loss if problem.kind == "regression" else sum(one.variance for one in reference) / rows
    watch, scale = problem.monitoring.quality, float(np.sqrt(variance))
    found = find_alarms(reference, own, days, watch, scale, loss, len(classes))
    rules = [alarm for alarm in found if alarm.stream in ("labels", "turned")]
    if not found:
        return []
    if rules:  # labels by another rule are no loss of the model's
        return [_finding(problem, classes, "label", "label rule", rules)]
    return [_finding(problem, classes, problem.metric, "concept drift", found)]


def _finding(problem: Problem, classes: Sequence[str], subject: str, cause: str, found: Sequence[Alarm]) -> Finding:
    """One, whatever the number of ways in which it shows."""
    most = max(found, key=lambda alarm: alarm.evidence)
    figures: dict[str, Any] = {"since": str(most.since)}
    figures["threshold"] = threshold(problem.monitoring.quality, len(classes))
    # Of the classes whose labels were turned, the one that shows it best.
    for alarm in sorted(found, key=lambda alarm: alarm.evidence):
        figures[alarm.stream] = {"size": alarm.size, "evidence": alarm.evidence}
    told = [most] if cause == "label rule" else found
    said = " ".join(_SENTENCES[alarm.stream](problem, classes, alarm) for alarm in told)
    return Finding(check="quality", subject=subject, cause=cause, page=True, sentence=said, figures=figures)


def _rule(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    off = f"{100 * alarm.size:.1f} of 100 labels contradict"
    if problem.kind == "regression":
        off = f"labels lie {alarm.size:.2f} standard deviations farther than usual from what is foretold by"
    came = {1: "; they came out higher", -1: "; they came out lower", 0: ""}[alarm.direction]
    return f"Labels follow another rule since {alarm.since}: {off} their rows and the time they took{came}."


def _turned(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    said = f"Labels follow another rule since {alarm.since}"
    if problem.kind == "regression":
        off = f"{alarm.size:.2f} standard deviations {('above', 'below')[alarm.direction]}"
        return f"{said}: they lie {off} what their rows and the time they took foretell."
    name, share = classes[alarm.direction], 100 * alarm.size
    return (
        f"{said}: of 100 that their rows and the time they took foretell to be {name}, {share:.0f} are something else."
    )


def _residual(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    side = "above" if alarm.direction > 0 else "below"
    said = f"Outcomes have been {side} the predictions since {alarm.since}"
    return f"{said}, by {alarm.size:.2f} of their standard deviation."


def _loss(problem: Problem, classes: Sequence[str], alarm: Alarm) -> str:
    than = "was held out" if problem.kind == "regression" else "the scores themselves expect"
    said = f"The model has been losing quality since {alarm.since}"
    return f"{said}: its loss is {100 * alarm.size:.0f}% more than {than}."


_SENTENCES = {"labels": _rule, "turned": _turned, "residual": _residual, "loss": _loss}


def _well(problem: Problem, figures: dict[str, Any], reference: int) -> str:
    told = figures.get("metrics", {}).get(problem.metric)
    if told is None:
        return "Cohorts are closed, and none of them has its labels yet."
    (first, last), now = figures["window"], told["now"]["value"]
    said = f"{problem.metric.replace('_', ' ').capitalize()} is {now:.4f} on the closed cohorts of {first} to {last}"
    beyond = figures["metrics"].get("excess_loss")
    if beyond is not None:
        said += f" ({beyond['now']['value']:+.4f} beyond what the scores expect)"
    if reference:
        said += f", {told['reference']['value']:.4f} on {figures['reference']}"
    if reference >= FEWEST_DAYS:
        return f"{said}; no change of quality lasts."
    few = f"only {counted(reference, 'day')} of the {FEWEST_DAYS} that are needed" if reference else "no day"
    return (
        f"{said}. Whether it changed is unknown: {few} before them tell how good a model was that did not learn them."
    )
