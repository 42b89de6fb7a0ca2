"""Find breakage: dead feeds, missing values, new categories, changed units, unusual volume.

Each whole UTC day since the last check is checked, and so is the present part of the current day. Days with few rows
are pooled until they have enough. Each is compared with the days before it and with the days of the champion's
snapshot; what occurred there is no finding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from truecourse.monitoring.drift.daily_counts import DAY, DayCounts, feature_histograms, pool
from truecourse.monitoring.drift.histograms import Array
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, DailyHistograms, ReferenceProfile
from truecourse.monitoring.drift.unseen_values import UnseenValues
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import MIN_HISTORY, is_unusual
from truecourse.problem import Problem
from truecourse.problem.schema import Text
from truecourse.wording import counted

MIN_ROWS = 50
"""Rows that a check of a day needs."""
DEAD = 0.25
"""A feed is dead when the share of values present falls below this fraction of the usual share."""
_LEAST_SHARE = 0.05
_FAULTY_DAYS = 0.02
"""Share of the snapshot's days that may themselves be faulty."""
MISSING, CRITICAL_MISSING = 0.1, 0.2
"""Increase of the share of missing values, over that on almost all days, for a finding and for a critical one."""
MIN_NEW_SHARE, MIN_NEW_ROWS, CRITICAL_NEW_SHARE, MIN_NEW_RATIO = 0.002, 3, 0.01, 3.0
"""Minimum share and number of rows for a new value, share for a critical one, and ratio to the usual share."""
OFF_SCALE, LANDED = 0.1, 0.9
"""A unit changed when OFF_SCALE of the values are unseen, and LANDED of those are seen values after conversion back."""
_SIGMAS = 4.0
MAX_LOOKBACK_DAYS = 92
"""How many days a check looks back after a long pause."""


@dataclass(frozen=True)
class CheckedDays:
    """The days that a check covers.

    `groups`: days with enough rows, or several pooled ones, oldest first; the last may be part of a day. `until`: the
    end of the last whole day (naive UTC), None without one. `fresh`: whether any row is checked for the first time.
    `missing`: how many rows the newest days lack to be checked."""

    groups: list[DayCounts]
    until: datetime | None
    fresh: bool
    missing: int


def select_days(days: Sequence[DayCounts], since: datetime, now: datetime) -> CheckedDays:
    """Select the days to check: those after `since`, up to which everything was checked, until `now` (naive
    UTC).

    `days`: sorted, including days before `since`. Without newer days, the newest ones are checked pooled, because their
    problems persist."""
    groups: list[DayCounts] = []
    waiting: list[DayCounts] = []
    checked_until = None
    for day in (day for day in days if day.day + DAY > since):
        waiting.append(day)
        if sum(one.rows for one in waiting) >= MIN_ROWS:
            groups.append(pool(waiting))
            checked_until = day.day + DAY if day.day + DAY <= now else checked_until
            waiting = []
    fresh = bool(groups)
    if not groups:
        pooled: list[DayCounts] = []
        for day in reversed(days):
            pooled.insert(0, day)
            if sum(one.rows for one in pooled) >= MIN_ROWS:
                # Rows that are too few on their own are checked together with days that were checked before.
                groups = [pool(pooled)]
                break
    waiting_rows = sum(one.rows for one in waiting)
    return CheckedDays(groups, checked_until, fresh, MIN_ROWS - waiting_rows if waiting_rows else 0)


def find_breakage(
    problem: Problem, profile: ReferenceProfile, days: Sequence[DayCounts], groups: Iterable[DayCounts]
) -> list[Finding]:
    """Find breakage in the `groups` of `days` (all days there are, sorted). Returns each problem once, as last
    found."""
    found: dict[str, Finding] = {}
    for group in groups:
        before = [day for day in days if group.day - TRAILING_DAYS * DAY <= day.day < group.day]
        recent = [day for day in days if group.day - MIN_HISTORY * DAY < day.day < group.day]
        usual = feature_histograms(profile, before) if len(before) >= 2 * MIN_HISTORY else profile.features
        group_findings = [
            *_missing(problem, profile, usual, group),
            *find_unseen_values(problem, before, recent, profile.unseen_shares, group),
        ]
        found |= {one.key: one for one in group_findings}
    return list(found.values())


def find_volume_changes(problem: Problem, days: Sequence[DayCounts], since: datetime, now: datetime) -> list[Finding]:
    """Find the last whole day from `since` on with far fewer or far more predictions than usual. A day without
    predictions counts if each of the 14 days before had some."""
    counts = {day.day: float(day.rows) for day in days}
    if not counts:
        return []
    first, results = max(since, min(counts)).replace(hour=0, minute=0, second=0, microsecond=0), []
    day = first if first >= since else first + DAY
    newest = max(counts)
    while day + DAY <= now and day <= newest:
        past = [counts.get(day - number * DAY) for number in range(1, TRAILING_DAYS + 1)]
        known = [count for count in past if count is not None]
        is_expected = None not in past[: 2 * MIN_HISTORY]
        if (day in counts or is_expected) and is_unusual(counts.get(day, 0.0), known, 2.0):
            results.append(_volume_finding(problem, day, int(counts.get(day, 0.0)), float(np.median(known))))
        day += DAY
    return results[-1:]


def _volume_finding(problem: Problem, day: datetime, rows: int, middle: float) -> Finding:
    sentence = f"{counted(rows, 'prediction')} on {day:%Y-%m-%d}; {middle:,.0f} a day are usual."
    return _finding(problem.name, "volume", True, sentence, rows=rows, usual=middle, day=f"{day:%Y-%m-%d}")


def _present(histograms: DailyHistograms) -> Array:
    """Return the share of values present by day and column, for days with at least MIN_ROWS rows."""
    rows = histograms.rows()
    return 1 - histograms.missing()[rows >= MIN_ROWS] / rows[rows >= MIN_ROWS, None]


def _missing(problem: Problem, profile: ReferenceProfile, usual: DailyHistograms, group: DayCounts) -> list[Finding]:
    past, ever, now = _present(usual), _present(profile.every), _present(feature_histograms(profile, [group]))[0]
    if not len(past) or not len(ever):
        return []
    middle, least = np.median(past, axis=0), np.quantile(ever, _FAULTY_DAYS, axis=0, method="lower")
    return find_missing_values(problem, list(profile.features.bins), middle, least, now, group)


def find_missing_values(
    problem: Problem, columns: Sequence[str], middle: Array, least: Array, now: Array, group: DayCounts
) -> list[Finding]:
    """Find columns with missing values. `middle`, `least`, `now`: by column the share of values present at the median,
    on almost any day, and in the `group`."""
    dead = (middle >= _LEAST_SHARE) & (now < DEAD * middle) & (now < least / 2)
    # Missing values must exceed those of almost all days, and sampling error for so many rows.
    base = np.clip(np.minimum(middle, least), 0.0, 1.0)
    chance = np.sqrt(np.maximum(base * (1 - base), 1 / group.rows) / group.rows)
    missing = ~dead & (base - now > MISSING) & (base - now > _SIGMAS * chance) & (1 - now > 2 * (1 - base))
    results: list[Finding] = []
    by_cause: dict[Cause, Array] = {"dead feed": dead, "missing values": missing}
    for cause, chosen in by_cause.items():
        shares = {name: (float(middle[i]), float(now[i])) for i, name in enumerate(columns) if chosen[i]}
        results += _group_by_view(problem, shares, cause, group)
    return results


def _group_by_view(
    problem: Problem, shares: dict[str, tuple[float, float]], cause: Cause, group: DayCounts
) -> list[Finding]:
    results = []
    for view in problem.views:
        missing = [name for name in view.features if name in shares]
        if missing:  # features of a view tend to be missing together: one finding for the view
            is_most_of_view = len(missing) > len(view.features) / 2
            results.append(
                missing_finding(view.name if is_most_of_view else missing[0], missing, shares, cause, group.day)
            )
            shares = {name: pair for name, pair in shares.items() if name not in missing}
    return results + [missing_finding(name, [name], shares, cause, group.day) for name in shares]


def missing_finding(
    subject: str, names: list[str], shares: dict[str, tuple[float, float]], cause: Cause, day: datetime
) -> Finding:
    was, now = (float(np.median([shares[name][i] for name in names])) for i in (0, 1))
    listed = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    what = listed if subject in names else f"{subject} ({listed})"
    sentence = f"{what} {'is' if len(names) == 1 else 'are'} missing on {day:%Y-%m-%d}: "
    sentence += f"{100 * now:.1f}% of rows have a value, {100 * was:.0f}% usually do."
    page = cause == "dead feed" or was - now >= CRITICAL_MISSING
    return _finding(subject, cause, page, sentence, present=now, usual=was, features=names, day=f"{day:%Y-%m-%d}")


def find_unseen_values(
    problem: Problem,
    before: Sequence[DayCounts],
    recent: Sequence[DayCounts],
    held_out: Mapping[str, float],
    group: DayCounts,
) -> list[Finding]:
    """Find unseen values of one kind (one category, or one unit conversion) that are more frequent than ever before.
    Unseen values alone are no finding: the first hot days of a year have some.

    `recent`: the days of the week before, with which rare values are pooled. `held_out`: by column, the greatest share
    of such values on a held-out day."""
    results = []
    recent_days = {one.day for one in recent}
    old = [one for one in before if one.day not in recent_days]
    past = [one for one in old if one.rows >= MIN_ROWS]
    for name, unseen in group.odd.items():
        held_out_share = held_out.get(name, 0.0)
        if isinstance(problem.features[name], Text):
            # Each category is compared on its own: one that has occurred for weeks must not hide another.
            frequent = [
                one
                for one in unseen.split()
                if one.alike / group.rows >= MIN_NEW_RATIO * max(held_out_share, _usual_share(name, one.like, past))
            ]
            new = [_new_category(name, one, recent, old, group) for one in frequent]
            results += [finding for finding in new if finding is not None][:1]
        elif unseen.alike / group.rows >= MIN_NEW_RATIO * max(held_out_share, _usual_share(name, None, past)) and (
            one := _unit_finding(name, unseen, group)
        ):
            results.append(one)
    return results


def _usual_share(name: str, like: str | None, past: Sequence[DayCounts]) -> float:
    """Return the usual share of rows with the value `like`, or with the commonest unseen value. A value that training
    lacks becomes usual after two weeks."""

    def alike(unseen: UnseenValues) -> int:
        return unseen.alike if like is None else unseen.rows_like(like)

    earlier = [alike(one.odd[name]) / one.rows if name in one.odd else 0.0 for one in past]
    return float(np.median(earlier)) if len(earlier) >= MIN_HISTORY else max(earlier, default=0.0)


def _new_category(
    name: str, unseen: UnseenValues, recent: Sequence[DayCounts], old: Sequence[DayCounts], group: DayCounts
) -> Finding | None:
    """Return a finding: for a week if the value is rare, and for as long as it lasts if it is frequent."""
    one = _category_finding(name, unseen, group) or _category_finding(name, *_pool_week(name, unseen, recent, group))
    if one is not None and not one.page and any(_was_found(name, unseen.like, day) for day in old):
        return None
    return one


def _was_found(name: str, like: str, day: DayCounts) -> bool:
    """Whether the value was frequent enough for a finding on that day."""
    alike = day.odd[name].rows_like(like) if name in day.odd else 0
    return alike >= MIN_NEW_ROWS and alike / day.rows >= MIN_NEW_SHARE


def _pool_week(
    name: str, unseen: UnseenValues, recent: Sequence[DayCounts], group: DayCounts
) -> tuple[UnseenValues, DayCounts]:
    """Pool the value's rows with those of the week before."""
    alike = unseen.alike + sum(one.odd[name].rows_like(unseen.like) for one in recent if name in one.odd)
    rows = group.rows + sum(one.rows for one in recent)
    return unseen.model_copy(update={"alike": alike}), group.model_copy(update={"rows": rows})


def _category_finding(name: str, unseen: UnseenValues, group: DayCounts) -> Finding | None:
    share = unseen.alike / group.rows
    if share < MIN_NEW_SHARE or unseen.alike < MIN_NEW_ROWS:
        return None
    sentence = f"{name} has a new category: {unseen.like!r}, absent from training, is in {100 * share:.1f}% of rows"
    sentence += f" on {group.day:%Y-%m-%d}."
    figures = {"value": unseen.like, "share": share, "day": f"{group.day:%Y-%m-%d}"}
    return _finding(name, "new category", share >= CRITICAL_NEW_SHARE, sentence, **figures)


def _unit_finding(name: str, unseen: UnseenValues, group: DayCounts) -> Finding | None:
    share = unseen.rows / group.rows
    if share < OFF_SCALE or unseen.alike < LANDED * unseen.rows:
        return None
    sentence = (
        f"The unit of {name} changed: {100 * share:.0f}% of rows on {group.day:%Y-%m-%d} have values absent from "
        f"training; undoing the conversion {unseen.like.replace('_', ' ')} gives training values for "
        f"{100 * unseen.alike / unseen.rows:.0f}% of those."
    )
    figures = {"conversion": unseen.like, "share": share, "day": f"{group.day:%Y-%m-%d}"}
    return _finding(name, "unit change", True, sentence, **figures)


def _finding(subject: str, cause: Cause, page: bool, sentence: str, **figures: object) -> Finding:
    return Finding(check="drift", subject=subject, cause=cause, page=page, sentence=sentence, figures=figures)


def first_unchecked(mark: datetime | None, start: datetime) -> datetime:
    """Return the time from which days are to be checked (naive UTC): the watermark, or the window's `start` at the
    first check."""
    return max(mark, start - timedelta(days=MAX_LOOKBACK_DAYS)) if mark is not None else start
