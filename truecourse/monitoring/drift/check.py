"""The drift check: have the data or the predictions moved, and did something break on the way?"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from truecourse.data.times import naive
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.features.clock import reference_time
from truecourse.monitoring.drift import checked_to
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
from truecourse.monitoring.drift.profile_builder import load_profile
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, ReferenceProfile
from truecourse.monitoring.drift.untimed import MIN_ROWS, compare_untimed
from truecourse.monitoring.drift.windows import (
    RELATION,
    DriftResult,
    WindowDays,
    feature_drift,
    findings,
    read_windows,
    score_drift,
)
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.predictions.observed import Predictions, monitored_features
from truecourse.monitoring.predictions.silence import detect_silence
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Window, aware_utc, naive_utc
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import predictions_table
from truecourse.storage.tables import Tables
from truecourse.wording import counted, counted_of

DATA, SCORES = "drift", "prediction drift"


@dataclass(frozen=True)
class DriftCheck:
    """A report, and all that its page shows. `scores`: None where the champion made no predictions in the window;
    `against`: what they are compared with."""

    report: Report
    data: DriftResult
    scores: DriftResult | None
    against: str


def check_drift(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Report:
    """Features and scores of a window of predictions, by default the problem's `monitoring.window` of whole UTC days
    before the present one, and what broke in all days since the last check.

    at: the moment that counts as now, UTC; the problem's clock if None. Nothing decided or asked for after it is read.
    A problem without time is checked on what came since the last check. Raises ModelError if there is no champion,
    NotFound if nothing was predicted yet, FeatureError if the named window is empty."""
    return run_check(problem, tables, at, window).report


def run_check(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> DriftCheck:
    version = registry.champion(problem.name)
    if version is None:
        hint = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to monitor", where=f"problem {problem.name}", hint=hint)
    if not problem.has_time:
        return _plainly(problem, tables, version, at or datetime.now(UTC))
    profile, now = load_profile(problem, version), naive_utc(at or reference_time(problem, tables))
    assert now is not None
    predictions = Predictions(problem, tables, list(profile.scores.bins))
    named = window is not None and (window.start is not None or window.end is not None)
    span, seen = _seen(problem, tables, profile, predictions, now, window or Window(), named)
    assert span.start is not None
    assert span.end is not None
    data, made = feature_drift(problem, profile, seen), score_drift(problem, profile, seen)
    drifted = [*findings(data, DATA), *(findings(made, SCORES) if made else [])]
    if named:
        broken, look = find_breakage(problem, profile, [*seen.before, *seen.now], seen.now[-1:]), None
    else:
        broken, look = _broken(problem, tables, profile, seen, span, now)
        silent = _silent(problem, profile, seen, predictions, now, at)
        broken = [*silent, *broken]
    told = _page_once(broken, drifted)
    report = _report(
        problem, version, profile.snapshot.sha256, now.replace(tzinfo=UTC), span, data, made, told, profile.against
    )
    return DriftCheck(report.model_copy(update=_looked_at(report, look)), data, made, profile.against)


def _page_once(broken: list[Finding], drifted: list[Finding]) -> list[Finding]:
    """What broke moves its columns too: one trouble, one page."""
    named = {name for one in broken for name in (one.subject, *one.figures.get("features", ()))}
    quiet = [
        one.model_copy(update={"page": one.page and (one.cause == SCORES or one.subject not in named)})
        for one in drifted
    ]
    return [*broken, *quiet]


def _broken(
    problem: Problem, tables: Tables, profile: ReferenceProfile, seen: WindowDays, span: Window, now: datetime
) -> tuple[list[Finding], CheckedDays]:
    """What broke in the days since the last check, which then counts up to the last whole one of them."""
    assert span.start is not None
    assert span.end is not None
    columns = list(profile.features.bins)
    mark = naive_utc(checked_to.read(tables.store, problem.name, now.replace(tzinfo=UTC)).oldest(columns))
    since = first_unchecked(mark, span.start)
    days = [*seen.before, *seen.now]
    first = min(days[0].day, since - TRAILING_DAYS * DAY)
    if first < days[0].day:
        days = [*read_daily_counts(problem, tables, profile, first, days[0].day), *days]
    if span.end < now:
        days += read_daily_counts(problem, tables, profile, span.end, now)
    days = [day for day in days if day.rows]
    look = select_days(days, since, now)
    again = min(since, look.units[-1].day) if look.units and not look.fresh else since
    found = [*find_breakage(problem, profile, days, look.units), *find_volume_changes(problem, days, again, now)]
    if look.until is not None:
        checked_to.advance(tables.store, problem.name, columns, look.until.replace(tzinfo=UTC))
    return found, look


def _silent(
    problem: Problem,
    profile: ReferenceProfile,
    seen: WindowDays,
    predictions: Predictions,
    now: datetime,
    at: datetime | None,
) -> list[Finding]:
    """By the days that predictions are of, where time is that of the data or a moment was named; by the days that they
    were made on, where it is the wall clock's."""
    if at is not None or problem.clock == "data":
        known = {day.item() for day in profile.every.days} | {one.day.date() for one in (*seen.before, *seen.now)}
        newest = predictions.newest_before(now) or now
        last = seen.now[-1].day
        newest = min(newest, last + DAY) if newest < now else min(now, last + DAY)
        days = sorted(day for day in known if day <= last.date())
    else:
        arrivals = [moment for moment in predictions.arrivals if moment <= now]
        days, newest = sorted({moment.date() for moment in arrivals}), arrivals[-1] if arrivals else now
    found = detect_silence(problem.name, days, newest, now)
    return [found] if found else []


def _looked_at(report: Report, look: CheckedDays | None) -> dict[str, Any]:
    """What a report says of the days since the last check."""
    if look is None:
        return {}
    days = [f"{unit.day:%Y-%m-%d}" for unit in look.units]
    figures = {"looked_at": {"days": days, "rows": sum(unit.rows for unit in look.units), "missing": look.missing}}
    # Where days were looked at, and are too few to tell drift, what broke in them and is not found any more is gone.
    idle = not report.made and bool(look.units)
    return {"figures": report.figures | figures, "fresh": look.fresh, "made": report.made or idle, "idle": idle}


def _plainly(problem: Problem, tables: Tables, version: ModelVersion, at: datetime) -> DriftCheck:
    at, columns = aware_utc(at), list(monitored_features(problem))
    plain = compare_untimed(
        problem, tables, version, at, checked_to.read(tables.store, problem.name, at).oldest(columns)
    )
    arrivals = [moment for moment in Predictions(problem, tables, []).arrivals if moment <= naive(at)]
    silent = detect_silence(problem.name, sorted({moment.date() for moment in arrivals}), arrivals[-1], naive(at))
    drifted = [*findings(plain.data, DATA), *findings(plain.scores, SCORES)]
    drifted = [one.model_copy(update={"page": True}) for one in drifted]  # with no time, no season excuses it
    found = _page_once([*([silent] if silent else []), *plain.breakage], drifted)
    report = _report(
        problem, version, plain.snapshot, at, Window(), plain.data, plain.scores, found, plain.against
    )  # fmt: skip
    said = report.sentence
    if not found and not plain.is_enough:
        said = f"{counted(plain.rows, 'new row')}: too few to judge drift, {MIN_ROWS} are needed."
    elif found:
        said = f"{said.rstrip('.')}, in {counted(plain.rows, 'new row')}{' of one batch' if plain.batch else ''}."
    if plain.is_enough:
        checked_to.advance(tables.store, problem.name, columns, plain.until)
    told = {
        "sentence": said,
        "made": bool(found) or plain.is_enough,
        "fresh": plain.fresh,
        "figures": report.figures | {"batch": plain.batch, "new_rows": plain.rows},
    }
    return DriftCheck(report.model_copy(update=told), plain.data, plain.scores, plain.against)


def update_daily_counts(problem: Problem, tables: Tables) -> int:
    """Bring up to date the sketches of the days that a check would read now, and what explains those of the window: to
    be called when predictions arrived, so that the check itself reads no rows. Returns how many days have a sketch; 0
    without a champion, time or predictions."""
    version = registry.champion(problem.name) if problem.has_time else None
    if version is None:
        return 0
    profile = load_profile(problem, version)
    newest = Predictions(problem, tables, list(profile.scores.bins)).newest
    if newest is None:
        return 0
    start, end = default_window(newest, problem.monitoring.window)
    seen, explainer = read_windows(problem, tables, profile, start, end), Explainer.of(problem, tables, profile)
    if explainer is not None:
        explainer.days(start - TRAILING_DAYS * DAY, end)
    return len({one.day for one in (*seen.now, *seen.before, *seen.season)})


def _seen(
    problem: Problem,
    tables: Tables,
    profile: ReferenceProfile,
    predictions: Predictions,
    now: datetime,
    window: Window,
    named: bool,
) -> tuple[Window, WindowDays]:
    """The window (naive UTC), which ends by `now`, and its days. One that nobody named hangs on the newest prediction:
    that there is none since is for silence() to say. Raises NotFound where nothing was predicted."""
    length = problem.monitoring.window
    if named:
        end = min(naive_utc(window.end) or now, now)
        span = Window(start=naive_utc(window.start) or end - length, end=end)
        return span, _days_of(problem, tables, profile, predictions, span)
    newest = predictions.newest_before(now)
    if newest is None:
        raise _empty(problem, predictions, Window(start=now - length, end=now))
    span = _last_days(newest, now, length)
    assert span.start is not None
    assert span.end is not None
    seen = read_windows(problem, tables, profile, span.start, span.end)
    if not seen.now:  # a file that reaches beyond them has none of these days
        earlier = (
            seen.before or read_windows(problem, tables, profile, span.start - MAX_LOOKBACK_DAYS * DAY, span.start).now
        )
        if not earlier:
            raise _empty(problem, predictions, span)
        span = _last_days(earlier[-1].day + DAY - timedelta(microseconds=1), now, length)
        seen = _days_of(problem, tables, profile, predictions, span)
    return span, seen


def _last_days(newest: datetime, now: datetime, length: timedelta) -> Window:
    """The last whole days up to the newest prediction. Where the present day has all there is, it is taken as it is."""
    start, end = default_window(newest, length)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if length >= DAY and end > now and start < today:
        return Window(start=start - DAY, end=today)
    return Window(start=start, end=min(end, now))


def _days_of(
    problem: Problem, tables: Tables, profile: ReferenceProfile, predictions: Predictions, span: Window
) -> WindowDays:
    assert span.start is not None
    assert span.end is not None
    seen = read_windows(problem, tables, profile, span.start, span.end)
    if not seen.now:
        raise _empty(problem, predictions, span)
    return seen


def _empty(problem: Problem, there: Predictions, span: Window) -> NotFound | FeatureError:
    where = predictions_table(problem.name)
    if there.newest is None or there.oldest is None:
        hint = f"truecourse run score --problem {problem.name}"
        return NotFound("there are no predictions yet", where=where, hint=hint)
    what = f"no predictions from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    hint = f"there are some from {there.oldest:%Y-%m-%d %H:%M} to {there.newest:%Y-%m-%d %H:%M}"
    return FeatureError(what, where=where, hint=hint)


def _report(
    problem: Problem,
    version: ModelVersion,
    snapshot: str,
    at: datetime,
    span: Window,
    data: DriftResult,
    scores: DriftResult | None,
    found: list[Finding],
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
    found = sorted(found, key=lambda one: not one.page)
    return Report(
        check="drift",
        problem=problem.name,
        at=at,
        sentence=sentence(data, scores, found),
        made=data.snapshot.decidable or bool(found),
        findings=tuple(found),
        figures=figures,
    )


def _figures(moved: DriftResult) -> dict[str, Any]:
    """By column what its PSI is; the shares of its bins are on the page alone."""
    trailing = {} if moved.trailing is None else {c.name: c.psi for c in moved.trailing.columns}
    columns = [
        {
            "name": c.name,
            "psi": round(c.psi, 4),
            "p_value": round(c.p_value, 4),
            "drifted": c.drifted,
            "missing": [round(share, 4) for share in c.missing],
            "trailing_psi": round(trailing[c.name], 4) if c.name in trailing else None,
        }
        for c in moved.snapshot.columns
    ]
    blocks, rows = moved.snapshot.blocks, moved.snapshot.rows
    told = {"blocks": blocks, "rows": rows, "decidable": moved.snapshot.decidable, "columns": columns}
    return told | {"seasonal": list(moved.seasonal), "missing": moved.missing}


def sentence(data: DriftResult, scores: DriftResult | None, found: Iterable[Finding]) -> str:
    """What was found, in one sentence."""
    found = list(found)
    urgent = [one.sentence for one in found if one.page]
    if urgent:
        return urgent[0] if len(urgent) == 1 else f"{urgent[0].rstrip('.')}; and {len(urgent) - 1} more."
    if data.missing and not found:
        return f"Too little to tell drift: {data.missing}."
    names, total = [column.name for column in data.snapshot.drifted], len(data.snapshot.columns)
    others = [one.sentence for one in found if one.cause not in (DATA, SCORES, RELATION)]
    if others and not names:
        return others[0] if len(others) == 1 else f"{others[0].rstrip('.')}; and {len(others) - 1} more."
    said = f"{counted_of(len(names), total, 'feature')} drifted: {list_names(names)}" if names else "No feature drifted"
    if scores is None:
        said = f"{said}; the champion made no predictions"
    elif scores.snapshot.drifted:
        said = f"{said}; {'so did' if names else 'but'} the predictions{'' if names else ' did'}"
    else:
        said = f"{said}; {'the predictions did not' if names else 'nor did the predictions'}"
    many = len(data.seasonal)
    return f"{said}; {counted(many, 'feature')} moved within seasonal range." if many else f"{said}."


def list_names(names: list[str]) -> str:
    """The first three by name, and how many others there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
