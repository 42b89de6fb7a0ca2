"""What broke, told from the newest day alone: feeds that died, categories that are new, units that changed, volume.

Each is held against the days before the window and against what the champion's snapshot shows of such days: what was
seen before is no finding."""

import numpy as np

from truecourse.monitoring.bins import Array
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.frozen import Frozen, Side
from truecourse.monitoring.sketches import Sketch, features
from truecourse.monitoring.strange import Strange
from truecourse.monitoring.usual import LEAST, unusual
from truecourse.problem import Problem
from truecourse.schema import Text
from truecourse.wording import counted

LEAST_ROWS = 50
"""Of fewer rows a day says nothing."""
DEAD = 0.25
"""A feed is dead when less than this part of its usual values is there."""
_LEAST_SHARE = 0.05
_ODD_DAYS = 0.02
"""So many of the snapshot's days may have been faulty themselves."""
NEW, TIMES = 0.01, 3.0
"""A new value counts from this share of the rows on, and from so many times what was ever seen."""
OFF_SCALE, LANDED = 0.1, 0.9
"""A unit changed when this share of the values is unknown, and this part of those is known once converted back."""


def breakage(problem: Problem, frozen: Frozen, before: list[Sketch], newest: Sketch, over: bool) -> list[Finding]:
    """`before`: the days before the window. `over`: whether the newest day is."""
    found = _volume(problem, before, newest) if over else []
    if newest.rows < LEAST_ROWS:
        return found
    usual = features(frozen, before) if len(before) >= LEAST else frozen.features
    return [*found, *_dead(problem, frozen, usual, newest), *_odd(problem, before, frozen, newest)]


def _volume(problem: Problem, before: list[Sketch], newest: Sketch) -> list[Finding]:
    past = [float(one.rows) for one in before]
    if not unusual(float(newest.rows), past, 2.0):
        return []
    middle = float(np.median(past))
    told = f"{counted(newest.rows, 'prediction')} on {newest.day:%Y-%m-%d}, where {middle:,.0f} a day are usual."
    return [_finding(problem.name, "volume", told, rows=newest.rows, usual=middle)]


def _present(side: Side) -> Array:
    """The share of values that are not missing, by day and column, of days with rows enough."""
    rows = side.rows()
    return 1 - side.missing()[rows >= LEAST_ROWS] / rows[rows >= LEAST_ROWS, None]


def _dead(problem: Problem, frozen: Frozen, usual: Side, newest: Sketch) -> list[Finding]:
    past, ever, now = _present(usual), _present(frozen.every), _present(features(frozen, [newest]))[0]
    if not len(past) or not len(ever):
        return []
    middle, least = np.median(past, axis=0), np.quantile(ever, _ODD_DAYS, axis=0, method="lower")
    gone = (middle >= _LEAST_SHARE) & (now < DEAD * middle) & (now < least / 2)
    names = np.array(list(frozen.features.bins))
    dead = {str(name): (float(middle[i]), float(now[i])) for i, name in enumerate(names) if gone[i]}
    found = []
    for view in problem.views:
        mine = [name for name in view.features if name in dead]
        if mine:  # what is computed from a missing value is missing with it: one trouble, one page
            whole = len(mine) > len(view.features) / 2
            found.append(_told_dead(view.name if whole else mine[0], mine, dead))
            dead = {name: shares for name, shares in dead.items() if name not in mine}
    return found + [_told_dead(name, [name], dead) for name in dead]


def _told_dead(subject: str, names: list[str], dead: dict[str, tuple[float, float]]) -> Finding:
    was, now = (float(np.median([dead[name][i] for name in names])) for i in (0, 1))
    listed = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    what = listed if subject in names else f"{subject} ({listed})"
    told = f"{what} {'is' if len(names) == 1 else 'are'} missing: "
    told += f"{100 * now:.1f}% of rows have a value, where {100 * was:.0f}% had one."
    return _finding(subject, "dead feed", told, present=now, usual=was, features=names)


def _odd(problem: Problem, before: list[Sketch], frozen: Frozen, newest: Sketch) -> list[Finding]:
    """Unknown values that are all of one kind, where they never were: the first hot days of a year are unknown too."""
    found = []
    for name, odd in newest.odd.items():
        earlier = [one.odd[name].alike / one.rows for one in before if name in one.odd and one.rows >= LEAST_ROWS]
        ever = max([frozen.odd.get(name, 0.0), *earlier])
        if odd.alike / newest.rows < TIMES * ever:
            continue
        one = _category(name, odd, newest) if isinstance(problem.features[name], Text) else _unit(name, odd, newest)
        found += [one] if one else []
    return found


def _category(name: str, odd: Strange, newest: Sketch) -> Finding | None:
    share = odd.alike / newest.rows
    if share < NEW:
        return None
    told = f"{name} has a new category: {odd.like!r}, which training never saw, is in {100 * share:.1f}% of rows."
    return _finding(name, "new category", told, value=odd.like, share=share)


def _unit(name: str, odd: Strange, newest: Sketch) -> Finding | None:
    share = odd.rows / newest.rows
    if share < OFF_SCALE or odd.alike < LANDED * odd.rows:
        return None
    told = (
        f"The unit of {name} changed: {100 * share:.0f}% of rows have values that training never saw, and "
        f"{100 * odd.alike / odd.rows:.0f}% of those are known ones after {odd.like.replace('_', ' ')}."
    )
    return _finding(name, "unit change", told, conversion=odd.like, share=share)


def _finding(subject: str, cause: str, told: str, **figures: object) -> Finding:
    return Finding(check="drift", subject=subject, cause=cause, page=True, sentence=told, figures=figures)
