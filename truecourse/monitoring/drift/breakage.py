"""What broke: feeds that died, values that are missing, categories that are new, units that changed, volume.

Every whole UTC day since the last check is looked at by itself, and so is the part of the current day that there is:
days of few rows are taken together until they are enough. Each is held against the days before it and against what the
champion's snapshot shows of such days: what was seen before is no finding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from truecourse.monitoring.drift.daily_counts import DAY, DayCounts, feature_histograms, pool
from truecourse.monitoring.drift.histograms import Array
from truecourse.monitoring.drift.novelty import UnseenValues
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, DailyHistograms, ReferenceProfile
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import MIN_HISTORY, is_unusual
from truecourse.problem import Problem
from truecourse.problem.schema import Text
from truecourse.wording import counted

MIN_ROWS = 50
"""Of fewer rows nothing is said."""
DEAD = 0.25
"""A feed is dead when less than this part of its usual values is there."""
_LEAST_SHARE = 0.05
_ODD_DAYS = 0.02
"""So many of the snapshot's days may have been faulty themselves."""
MISSING, PAGES = 0.1, 0.2
"""Values are missing when so much more of them is than on almost all days; from this on somebody is told at once."""
NEW, LEAST_NEW, NEW_PAGES, TIMES = 0.002, 3, 0.01, 3.0
"""A new value counts from this share and number of the rows on, and from so many times what was seen of such."""
OFF_SCALE, LANDED = 0.1, 0.9
"""A unit changed when this share of the values is unknown, and this part of those is known once converted back."""
_SIGMAS = 4.0
MAX_LOOKBACK_DAYS = 92
"""Days that a check looks back on, where nobody checked for long."""


@dataclass(frozen=True)
class CheckedDays:
    """`units`: days, or few of them together, with rows enough, oldest first; the last may be a part of a day.
    `until`: the end of the last whole day that was looked at (naive UTC); None where there was none. `fresh`: whether
    any row was looked at for the first time. `missing`: rows that the newest days lack to be looked at."""

    units: list[DayCounts]
    until: datetime | None
    fresh: bool
    missing: int


def select_days(days: Sequence[DayCounts], since: datetime, now: datetime) -> CheckedDays:
    """`days`: rising, naive UTC, from before `since`, up to which all was looked at before, to `now`. Where nothing is
    newer, the newest days that are enough are looked at again: what is wrong with them still is."""
    units: list[DayCounts] = []
    waiting: list[DayCounts] = []
    until = None
    for day in (day for day in days if day.day + DAY > since):
        waiting.append(day)
        if sum(one.rows for one in waiting) >= MIN_ROWS:
            units.append(pool(waiting))
            until = day.day + DAY if day.day + DAY <= now else until
            waiting = []
    fresh = bool(units)
    if not units:
        again: list[DayCounts] = []
        for day in reversed(days):
            again.insert(0, day)
            if sum(one.rows for one in again) >= MIN_ROWS:
                # Together with days that were looked at, rows that are too few by themselves are looked at, too.
                units = [pool(again)]
                break
    there = sum(one.rows for one in waiting)
    return CheckedDays(units, until, fresh, MIN_ROWS - there if there else 0)


def find_breakage(
    problem: Problem, profile: ReferenceProfile, days: Sequence[DayCounts], units: Iterable[DayCounts]
) -> list[Finding]:
    """`days`: all there are, rising; `units` of them. Each trouble once, as it was last seen."""
    found: dict[str, Finding] = {}
    for unit in units:
        before = [day for day in days if unit.day - TRAILING_DAYS * DAY <= day.day < unit.day]
        recent = [day for day in days if unit.day - MIN_HISTORY * DAY < day.day < unit.day]
        usual = feature_histograms(profile, before) if len(before) >= 2 * MIN_HISTORY else profile.features
        named = [
            *_missing(problem, profile, usual, unit),
            *find_unseen_values(problem, before, recent, profile.unseen_shares, unit),
        ]
        found |= {one.key: one for one in named}
    return list(found.values())


def find_volume_changes(problem: Problem, days: Sequence[DayCounts], since: datetime, now: datetime) -> list[Finding]:
    """Whole days, from the moment `since` on, with far fewer predictions than usual, or far more; days with none too,
    where each day before had some."""
    counts = {day.day: float(day.rows) for day in days}
    if not counts:
        return []
    first, found = max(since, min(counts)).replace(hour=0, minute=0, second=0, microsecond=0), []
    day = first if first >= since else first + DAY
    newest = max(counts)
    while day + DAY <= now and day <= newest:
        past = [counts.get(day - number * DAY) for number in range(1, TRAILING_DAYS + 1)]
        known = [count for count in past if count is not None]
        steady = None not in past[: 2 * MIN_HISTORY]
        if (day in counts or steady) and is_unusual(counts.get(day, 0.0), known, 2.0):
            found.append(_volume(problem, day, int(counts.get(day, 0.0)), float(np.median(known))))
        day += DAY
    return found[-1:]


def _volume(problem: Problem, day: datetime, rows: int, middle: float) -> Finding:
    told = f"{counted(rows, 'prediction')} on {day:%Y-%m-%d}, where {middle:,.0f} a day are usual."
    return _finding(problem.name, "volume", True, told, rows=rows, usual=middle, day=f"{day:%Y-%m-%d}")


def _present(side: DailyHistograms) -> Array:
    """The share of values that are not missing, by day and column, of days with rows enough."""
    rows = side.rows()
    return 1 - side.missing()[rows >= MIN_ROWS] / rows[rows >= MIN_ROWS, None]


def _missing(problem: Problem, profile: ReferenceProfile, usual: DailyHistograms, unit: DayCounts) -> list[Finding]:
    past, ever, now = _present(usual), _present(profile.every), _present(feature_histograms(profile, [unit]))[0]
    if not len(past) or not len(ever):
        return []
    middle, least = np.median(past, axis=0), np.quantile(ever, _ODD_DAYS, axis=0, method="lower")
    return find_missing_values(problem, list(profile.features.bins), middle, least, now, unit)


def find_missing_values(
    problem: Problem, columns: Sequence[str], middle: Array, least: Array, now: Array, unit: DayCounts
) -> list[Finding]:
    """`middle`, `least`, `now`: by column the share of values that are there usually, on almost any day, and in the
    unit."""
    dead = (middle >= _LEAST_SHARE) & (now < DEAD * middle) & (now < least / 2)
    # What is missing on almost no day, and now is: by more than chance makes of so many rows.
    base = np.clip(np.minimum(middle, least), 0.0, 1.0)
    chance = np.sqrt(np.maximum(base * (1 - base), 1 / unit.rows) / unit.rows)
    gone = ~dead & (base - now > MISSING) & (base - now > _SIGMAS * chance) & (1 - now > 2 * (1 - base))
    found: list[Finding] = []
    for cause, chosen in (("dead feed", dead), ("missing values", gone)):
        shares = {name: (float(middle[i]), float(now[i])) for i, name in enumerate(columns) if chosen[i]}
        found += _by_view(problem, shares, cause, unit)
    return found


def _by_view(problem: Problem, shares: dict[str, tuple[float, float]], cause: str, unit: DayCounts) -> list[Finding]:
    found = []
    for view in problem.views:
        mine = [name for name in view.features if name in shares]
        if mine:  # what is computed from a missing value is missing with it: one trouble, one page
            whole = len(mine) > len(view.features) / 2
            found.append(_missing_finding(view.name if whole else mine[0], mine, shares, cause, unit.day))
            shares = {name: pair for name, pair in shares.items() if name not in mine}
    return found + [_missing_finding(name, [name], shares, cause, unit.day) for name in shares]


def _missing_finding(
    subject: str, names: list[str], shares: dict[str, tuple[float, float]], cause: str, day: datetime
) -> Finding:
    was, now = (float(np.median([shares[name][i] for name in names])) for i in (0, 1))
    listed = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    what = listed if subject in names else f"{subject} ({listed})"
    told = f"{what} {'is' if len(names) == 1 else 'are'} missing on {day:%Y-%m-%d}: "
    told += f"{100 * now:.1f}% of rows have a value, where {100 * was:.0f}% had one."
    page = cause == "dead feed" or was - now >= PAGES
    return _finding(subject, cause, page, told, present=now, usual=was, features=names, day=f"{day:%Y-%m-%d}")


def find_unseen_values(
    problem: Problem,
    before: Sequence[DayCounts],
    recent: Sequence[DayCounts],
    held_out: Mapping[str, float],
    unit: DayCounts,
) -> list[Finding]:
    """Unknown values that are all of one kind, where they never were: the first hot days of a year are unknown too.
    `recent`: the days of the week before, in which few rows may become enough. `held_out`: by column, the greatest
    share of such values on a day that the model never saw."""
    found = []
    for name, odd in unit.odd.items():
        old = [one for one in before if one not in recent]
        past = [one for one in old if one.rows >= MIN_ROWS]
        held = held_out.get(name, 0.0)
        if isinstance(problem.features[name], Text):
            # A category is known by itself: one that has come for weeks hides no other.
            many = [
                one for one in odd.split() if one.alike / unit.rows >= TIMES * max(held, _usual(name, one.like, past))
            ]
            found += [one for each in many if (one := _new_category(name, each, recent, old, unit)) is not None][:1]
        elif odd.alike / unit.rows >= TIMES * max(held, _usual(name, None, past)) and (one := _unit(name, odd, unit)):
            found.append(one)
    return found


def _usual(name: str, like: str | None, past: Sequence[DayCounts]) -> float:
    """The usual share of rows with the value, or with the commonest unknown one. After two weeks of it a value is
    known, though training has not seen it."""

    def alike(odd: UnseenValues) -> int:
        return odd.alike if like is None else odd.rows_like(like)

    earlier = [alike(one.odd[name]) / one.rows if name in one.odd else 0.0 for one in past]
    return float(np.median(earlier)) if len(earlier) >= MIN_HISTORY else max(earlier, default=0.0)


def _new_category(
    name: str, odd: UnseenValues, recent: Sequence[DayCounts], old: Sequence[DayCounts], unit: DayCounts
) -> Finding | None:
    """In few rows it is news for a week; in many somebody should see to it."""
    one = _category(name, odd, unit) or _category(name, *_together(name, odd, recent, unit))
    if one is not None and not one.page and any(_told_of(name, odd.like, day) for day in old):
        return None
    return one


def _told_of(name: str, like: str, day: DayCounts) -> bool:
    """Whether that day had enough of the same new value."""
    alike = day.odd[name].rows_like(like) if name in day.odd else 0
    return alike >= LEAST_NEW and alike / day.rows >= NEW


def _together(
    name: str, odd: UnseenValues, recent: Sequence[DayCounts], unit: DayCounts
) -> tuple[UnseenValues, DayCounts]:
    """The same new value in the days of a week."""
    alike = odd.alike + sum(one.odd[name].rows_like(odd.like) for one in recent if name in one.odd)
    rows = unit.rows + sum(one.rows for one in recent)
    return odd.model_copy(update={"alike": alike}), unit.model_copy(update={"rows": rows})


def _category(name: str, odd: UnseenValues, unit: DayCounts) -> Finding | None:
    share = odd.alike / unit.rows
    if share < NEW or odd.alike < LEAST_NEW:
        return None
    told = f"{name} has a new category: {odd.like!r}, which training never saw, is in {100 * share:.1f}% of rows"
    told += f" on {unit.day:%Y-%m-%d}."
    figures = {"value": odd.like, "share": share, "day": f"{unit.day:%Y-%m-%d}"}
    return _finding(name, "new category", share >= NEW_PAGES, told, **figures)


def _unit(name: str, odd: UnseenValues, unit: DayCounts) -> Finding | None:
    share = odd.rows / unit.rows
    if share < OFF_SCALE or odd.alike < LANDED * odd.rows:
        return None
    told = (
        f"The unit of {name} changed: {100 * share:.0f}% of rows on {unit.day:%Y-%m-%d} have values that training "
        f"never saw, and {100 * odd.alike / odd.rows:.0f}% of those are known ones after {odd.like.replace('_', ' ')}."
    )
    figures = {"conversion": odd.like, "share": share, "day": f"{unit.day:%Y-%m-%d}"}
    return _finding(name, "unit change", True, told, **figures)


def _finding(subject: str, cause: str, page: bool, told: str, **figures: object) -> Finding:
    return Finding(check="drift", subject=subject, cause=cause, page=page, sentence=told, figures=figures)


def first_unchecked(mark: datetime | None, start: datetime) -> datetime:
    """From where days are to be looked at (naive UTC): the mark, or the window's `start` at the first check."""
    return max(mark, start - timedelta(days=MAX_LOOKBACK_DAYS)) if mark is not None else start
