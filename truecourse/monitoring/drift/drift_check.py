"""The drift check: drift of features and scores, and breakage such as dead feeds or changed units."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from truecourse.data.times import naive
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.features.clock import reference_time
from truecourse.monitoring.drift import watermarks
from truecourse.monitoring.drift.breakage import (
    MAX_LOOKBACK_DAYS,
    CheckedDays,
    find_breakage,
    find_volume_changes,
    first_unchecked,
    select_days,
)
from truecourse.monitoring.drift.daily_attributions import Explainer
from truecourse.monitoring.drift.daily_counts import DAY, read_daily_counts
from truecourse.monitoring.drift.permutation_test import default_window
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, ReferenceProfile, load_profile
from truecourse.monitoring.drift.static_table_drift import MIN_ROWS, compare_untimed
from truecourse.monitoring.drift.window_drift import (
    RELATION,
    DriftResult,
    WindowDays,
    build_findings,
    compute_feature_drift,
    compute_score_drift,
    read_windows,
)
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.predictions.observed_predictions import Predictions, monitored_features, unmonitored_features
from truecourse.monitoring.predictions.silence import detect_silence
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Window, aware_utc, naive_utc
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import predictions_table
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted, counted_of

DATA: Cause = "drift"
SCORES: Cause = "prediction drift"


@dataclass(frozen=True)
class DriftCheck:
    """A report and the results that its page shows. `scores`: None if the champion made no predictions in the window;
    `against`: the rows that the scores are compared with."""

    report: Report
    data: DriftResult
    scores: DriftResult | None
    against: str


def check_drift(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Report:
    """Test a window of predictions for drift, and all days since the last check for breakage.

    at: the reference time (UTC), by default by the problem's clock; later decisions and requests are not read. window:
    by default the last whole UTC days, as many as the problem's `monitoring.window`. For a problem without time, the
    predictions since the last check are tested.

    Raises ModelError without a champion, NotFound without predictions, FeatureError if a given window is empty."""
    return run_check(problem, tables, at, window).report


def run_check(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> DriftCheck:
    version = registry.champion(problem.name)
    if version is None:
        hint = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to monitor", where=f"problem {problem.name}", hint=hint)
    if not problem.has_time:
        return _run_untimed_check(problem, tables, version, at or datetime.now(UTC))
    profile, now = load_profile(problem, version), naive_utc(at or reference_time(problem, tables))
    assert now is not None
    predictions = Predictions(problem, tables, list(profile.scores.bins))
    is_named = window is not None and (window.start is not None or window.end is not None)
    span, days = _select_window(problem, tables, profile, predictions, now, window or Window(), is_named)
    assert span.start is not None
    assert span.end is not None
    data, scores = compute_feature_drift(problem, profile, days), compute_score_drift(problem, profile, days)
    drifted = [*build_findings(data, DATA), *(build_findings(scores, SCORES) if scores else [])]
    if is_named:
        breakage, checked_days = find_breakage(problem, profile, [*days.before, *days.now], days.now[-1:]), None
    else:
        breakage, checked_days = _check_new_days(problem, tables, profile, days, span, now)
        silence = _check_silence(problem, profile, days, predictions, now, at)
        breakage = [*silence, *breakage]
    all_findings = _page_once(breakage, drifted)
    report = _report(
        problem,
        version,
        profile.snapshot.sha256,
        now.replace(tzinfo=UTC),
        span,
        data,
        scores,
        all_findings,
        profile.against,
    )
    return DriftCheck(
        report.model_copy(update=_checked_days_fields(report, checked_days)), data, scores, profile.against
    )


def _page_once(breakage: list[Finding], drifted: list[Finding]) -> list[Finding]:
    """Make drift of columns that broke a warning: one problem notifies once."""
    broken_columns = {name for one in breakage for name in (one.subject, *one.figures.get("features", ()))}
    demoted = [
        one.model_copy(update={"page": one.page and (one.cause == SCORES or one.subject not in broken_columns)})
        for one in drifted
    ]
    return [*breakage, *demoted]


def _check_new_days(
    problem: Problem, tables: Tables, profile: ReferenceProfile, days: WindowDays, span: Window, now: datetime
) -> tuple[list[Finding], CheckedDays]:
    """Find breakage in the days since the last check, and advance the watermark to the end of the last whole day."""
    assert span.start is not None
    assert span.end is not None
    columns = list(profile.features.bins)
    mark = naive_utc(watermarks.read(tables.store, problem.name, now.replace(tzinfo=UTC)).oldest(columns))
    since = first_unchecked(mark, span.start)
    all_days = [*days.before, *days.now]
    first = min(all_days[0].day, since - TRAILING_DAYS * DAY)
    if first < all_days[0].day:
        all_days = [*read_daily_counts(problem, tables, profile, first, all_days[0].day), *all_days]
    if span.end < now:
        all_days += read_daily_counts(problem, tables, profile, span.end, now)
    all_days = [day for day in all_days if day.rows]
    checked_days = select_days(all_days, since, now)
    volume_since = min(since, checked_days.groups[-1].day) if checked_days.groups and not checked_days.fresh else since
    breakage = [
        *find_breakage(problem, profile, all_days, checked_days.groups),
        *find_volume_changes(problem, all_days, volume_since, now),
    ]
    if checked_days.until is not None:
        watermarks.advance(tables.store, problem.name, columns, checked_days.until.replace(tzinfo=UTC))
    return breakage, checked_days


def _check_silence(
    problem: Problem,
    profile: ReferenceProfile,
    days: WindowDays,
    predictions: Predictions,
    now: datetime,
    at: datetime | None,
) -> list[Finding]:
    """Detect silence: by decision dates if the reference time is given or the clock is that of the data; otherwise by
    the dates on which predictions were made."""
    if at is not None or problem.clock == "data":
        known = {day.item() for day in profile.every.days} | {one.day.date() for one in (*days.before, *days.now)}
        newest = predictions.newest_before(now) or now
        last = days.now[-1].day
        newest = min(newest, last + DAY) if newest < now else min(now, last + DAY)
        dates = sorted(day for day in known if day <= last.date())
    else:
        arrivals = [moment for moment in predictions.arrivals if moment <= now]
        dates, newest = sorted({moment.date() for moment in arrivals}), arrivals[-1] if arrivals else now
    silence = detect_silence(problem.name, dates, newest, now)
    return [silence] if silence else []


def _checked_days_fields(report: Report, checked_days: CheckedDays | None) -> dict[str, Any]:
    """Return the report fields about the days since the last check."""
    if checked_days is None:
        return {}
    days = [f"{unit.day:%Y-%m-%d}" for unit in checked_days.groups]
    figures = {
        "looked_at": {
            "days": days,
            "rows": sum(unit.rows for unit in checked_days.groups),
            "missing": checked_days.missing,
        }
    }
    # Days that are too few for the drift test were still checked for breakage: alerts about it may be resolved.
    idle = not report.made and bool(checked_days.groups)
    return {"figures": report.figures | figures, "fresh": checked_days.fresh, "made": report.made or idle, "idle": idle}


def _run_untimed_check(problem: Problem, tables: Tables, version: ModelVersion, at: datetime) -> DriftCheck:
    at, columns = aware_utc(at), list(monitored_features(problem, version))
    result = compare_untimed(
        problem, tables, version, at, watermarks.read(tables.store, problem.name, at).oldest(columns)
    )
    arrivals = [moment for moment in Predictions(problem, tables, []).arrivals if moment <= naive(at)]
    silence = detect_silence(problem.name, sorted({moment.date() for moment in arrivals}), arrivals[-1], naive(at))
    drifted = [*build_findings(result.data, DATA), *build_findings(result.scores, SCORES)]
    drifted = [one.model_copy(update={"page": True}) for one in drifted]  # without time, no season explains the drift
    all_findings = _page_once([*([silence] if silence else []), *result.breakage], drifted)
    report = _report(
        problem, version, result.snapshot, at, Window(), result.data, result.scores, all_findings, result.against
    )  # fmt: skip
    summary = report.sentence
    if not all_findings and not result.is_enough:
        summary = f"{counted(result.rows, 'new row')}: too few to test for drift, {MIN_ROWS} are needed."
    elif all_findings:
        summary = (
            f"{summary.rstrip('.')}, in {counted(result.rows, 'new row')}{' of one batch' if result.batch else ''}."
        )
    if result.is_enough:
        watermarks.advance(tables.store, problem.name, columns, result.until)
    update = {
        "sentence": summary,
        "made": bool(all_findings) or result.is_enough,
        "fresh": result.fresh,
        "figures": report.figures | {"batch": result.batch, "new_rows": result.rows},
    }
    return DriftCheck(report.model_copy(update=update), result.data, result.scores, result.against)


def update_daily_counts(problem: Problem, tables: Tables) -> int:
    """Update the daily counts and attributions that the next check reads. Call it when predictions arrive, so that the
    check itself reads no rows. Returns the number of days with counts; 0 without a champion, time or predictions."""
    version = registry.champion(problem.name) if problem.has_time else None
    if version is None:
        return 0
    profile = load_profile(problem, version)
    newest = Predictions(problem, tables, list(profile.scores.bins)).newest
    if newest is None:
        return 0
    start, end = default_window(newest, problem.monitoring.window)
    days, explainer = read_windows(problem, tables, profile, start, end), Explainer.of(problem, tables, profile)
    if explainer is not None:
        explainer.days(start - TRAILING_DAYS * DAY, end)
    return len({one.day for one in (*days.now, *days.before, *days.season)})


def _select_window(
    problem: Problem,
    tables: Tables,
    profile: ReferenceProfile,
    predictions: Predictions,
    now: datetime,
    window: Window,
    is_named: bool,
) -> tuple[Window, WindowDays]:
    """Return the window (naive UTC), which ends by `now`, and its days.

    The default window ends with the newest prediction; detect_silence() covers the time since. Raises NotFound without
    predictions."""
    length = problem.monitoring.window
    if is_named:
        end = min(naive_utc(window.end) or now, now)
        span = Window(start=naive_utc(window.start) or end - length, end=end)
        return span, _read_days(problem, tables, profile, predictions, span)
    newest = predictions.newest_before(now)
    if newest is None:
        raise _no_predictions(problem, predictions, Window(start=now - length, end=now))
    span = _last_days(newest, now, length)
    assert span.start is not None
    assert span.end is not None
    days = read_windows(problem, tables, profile, span.start, span.end)
    if not days.now:  # the file's time range covers these days, but it has no rows in them
        earlier = (
            days.before or read_windows(problem, tables, profile, span.start - MAX_LOOKBACK_DAYS * DAY, span.start).now
        )
        if not earlier:
            raise _no_predictions(problem, predictions, span)
        span = _last_days(earlier[-1].day + DAY - timedelta(microseconds=1), now, length)
        days = _read_days(problem, tables, profile, predictions, span)
    return span, days


def _last_days(newest: datetime, now: datetime, length: timedelta) -> Window:
    """Return the last whole days up to the newest prediction; the present day only if there is no other."""
    start, end = default_window(newest, length)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if length >= DAY and end > now and start < today:
        return Window(start=start - DAY, end=today)
    return Window(start=start, end=min(end, now))


def _read_days(
    problem: Problem, tables: Tables, profile: ReferenceProfile, predictions: Predictions, span: Window
) -> WindowDays:
    assert span.start is not None
    assert span.end is not None
    days = read_windows(problem, tables, profile, span.start, span.end)
    if not days.now:
        raise _no_predictions(problem, predictions, span)
    return days


def _no_predictions(problem: Problem, predictions: Predictions, span: Window) -> NotFound | FeatureError:
    where = predictions_table(problem.name)
    if predictions.newest is None or predictions.oldest is None:
        hint = f"truecourse run score --problem {problem.name}"
        return NotFound("there are no predictions yet", where=where, hint=hint)
    what = f"no predictions from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    hint = f"there are predictions from {predictions.oldest:%Y-%m-%d %H:%M} to {predictions.newest:%Y-%m-%d %H:%M}"
    return FeatureError(what, where=where, hint=hint)


def _report(
    problem: Problem,
    version: ModelVersion,
    snapshot: str,
    at: datetime,
    span: Window,
    data: DriftResult,
    scores: DriftResult | None,
    all_findings: list[Finding],
    against: str,
) -> Report:
    figures: dict[str, Any] = {
        "timed": problem.has_time,
        "model": {"version": version.version, "sha256": version.model_sha256, "snapshot": snapshot},
        "window": span.model_dump(mode="json"),
        "false_alarm_rate": problem.monitoring.false_alarm_rate,
        "threshold": problem.monitoring.psi,
        "largest": round(max(column.psi for column in data.snapshot.columns), 4),
        "data": _figures(data),
        "prediction": {**_figures(scores), "against": against} if scores else None,
    }
    all_findings = sorted(all_findings, key=lambda one: not one.page)
    sentence = summarize(data, scores, all_findings)
    if left_out := unmonitored_features(problem, version):
        figures["unmonitored"] = left_out
        what = f"Version {version.version} was trained before an edit of the problem; not compared: "
        sentence = f"{sentence} {what}{list_names(left_out)}."
    return Report(
        check="drift",
        problem=problem.name,
        at=at,
        sentence=sentence,
        made=data.snapshot.decidable or bool(all_findings),
        findings=tuple(all_findings),
        figures=figures,
    )


def _figures(result: DriftResult) -> dict[str, Any]:
    """Return the figures of each column; only the page has the shares of the bins."""
    trailing = {} if result.trailing is None else {c.name: c.psi for c in result.trailing.columns}
    columns = [
        {
            "name": c.name,
            "psi": round(c.psi, 4),
            "p_value": round(c.p_value, 4),
            "drifted": c.drifted,
            "missing": [round(share, 4) for share in c.missing],
            "trailing_psi": round(trailing[c.name], 4) if c.name in trailing else None,
        }
        for c in result.snapshot.columns
    ]
    blocks, rows = result.snapshot.blocks, result.snapshot.rows
    figures = {"blocks": blocks, "rows": rows, "decidable": result.snapshot.decidable, "columns": columns}
    return figures | {"seasonal": list(result.seasonal), "missing": result.missing}


def summarize(data: DriftResult, scores: DriftResult | None, all_findings: Iterable[Finding]) -> str:
    """Summarize the findings in one sentence."""
    all_findings = list(all_findings)
    urgent = [one.sentence for one in all_findings if one.page]
    if urgent:
        return urgent[0] if len(urgent) == 1 else f"{urgent[0].rstrip('.')}; and {len(urgent) - 1} more."
    if data.missing and not all_findings:
        return f"Too little data to test for drift: {data.missing}."
    names, total = [column.name for column in data.snapshot.drifted], len(data.snapshot.columns)
    others = [one.sentence for one in all_findings if one.cause not in (DATA, SCORES, RELATION)]
    if others and not names:
        return others[0] if len(others) == 1 else f"{others[0].rstrip('.')}; and {len(others) - 1} more."
    text = f"{counted_of(len(names), total, 'feature')} drifted: {list_names(names)}" if names else "No feature drifted"
    if scores is None:
        text = f"{text}; the champion made no predictions"
    elif scores.snapshot.drifted:
        text = f"{text}; {'so did' if names else 'but'} the predictions{'' if names else ' did'}"
    else:
        text = f"{text}; {'the predictions did not' if names else 'nor did the predictions'}"
    many = len(data.seasonal)
    return f"{text}; {counted(many, 'feature')} changed within seasonal range." if many else f"{text}."


def list_names(names: list[str]) -> str:
    """List the first three names and the number of others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
