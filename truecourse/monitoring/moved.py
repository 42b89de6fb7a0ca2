"""Drift of a window of predictions: against the training rows, the weeks before it, and the same season a year before.

Days are not exchangeable with those of another season, nor one week's weather with the last month's. So what is far
from the snapshot is reported and wakes nobody; against the weeks before the window it does, where a column moved three
times as far as it ever did in the snapshot over as many days.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from truecourse.monitoring.bins import Array, Counts
from truecourse.monitoring.drift import ColumnDrift, Drift, judge
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.frozen import TRAILING, Frozen, Side
from truecourse.monitoring.sketches import DAY, Sketch, features, scores, sketches
from truecourse.monitoring.usual import LEAST
from truecourse.problem import Problem
from truecourse.schema import RESERVED_PREFIX
from truecourse.tables import Tables
from truecourse.wording import counted

YEAR, SEASON = timedelta(days=364), timedelta(days=14)
"""52 weeks, so that weekdays meet; and what counts as the same season before and after."""
BEYOND = 3.0
"""How much further than ever before a column has to move, to wake somebody."""


@dataclass(frozen=True)
class Moved:
    """A family of columns against each reference that there is. `swing`: by column, the greatest PSI that it ever had
    in the snapshot against the weeks before, or the practical threshold if that is more; empty where the snapshot is
    too short to tell, or there is no time."""

    snapshot: Drift
    trailing: Drift | None
    season: Drift | None
    swing: dict[str, float]

    def pages(self, name: str) -> bool:
        if self.trailing is None or name not in self.swing:
            return False
        column = _named(self.trailing, name)
        return column.drifted and column.psi > BEYOND * self.swing[name]


@dataclass(frozen=True)
class Windows:
    """Sketches of a window's days, of the weeks before it, and of the same season a year before."""

    now: list[Sketch]
    before: list[Sketch]
    season: list[Sketch]


def windows(problem: Problem, tables: Tables, frozen: Frozen, start: datetime, end: datetime) -> Windows:
    def read(first: datetime, last: datetime) -> list[Sketch]:
        return sketches(problem, tables, frozen, first, last)

    before = read(start - TRAILING * DAY, start)
    return Windows(read(start, end), before, read(start - YEAR - SEASON, end - YEAR + SEASON))


def data_moved(problem: Problem, frozen: Frozen, seen: Windows) -> Moved:
    """The features that the models saw."""
    now, before = features(frozen, seen.now), features(frozen, seen.before)
    season = _both(frozen.every, features(frozen, seen.season), now)
    return compared(problem, now, frozen.features, before, season, frozen.every)


def scores_moved(problem: Problem, frozen: Frozen, seen: Windows) -> Moved | None:
    """The champion's scores, against its scores of rows it never saw; None where it made none in the window."""
    now, before = scores(frozen, seen.now), scores(frozen, seen.before)
    if not len(now.days):
        return None
    earlier = _days(frozen.scores, frozen.scores.days < now.days.min())
    reference = earlier if len(earlier.days) else frozen.scored
    return shown(compared(problem, now, reference, before, None, frozen.scored))


def shown(scores: Moved) -> Moved:
    """Scores under the names that people know: `score`, for `_tc_score`."""

    def named(found: Drift | None) -> Drift | None:
        if found is None:
            return None
        return replace(
            found, columns=tuple(replace(c, name=c.name.removeprefix(RESERVED_PREFIX)) for c in found.columns)
        )

    snapshot = named(scores.snapshot)
    assert snapshot is not None
    swing = {name.removeprefix(RESERVED_PREFIX): value for name, value in scores.swing.items()}
    return Moved(snapshot, named(scores.trailing), named(scores.season), swing)


def compared(problem: Problem, now: Side, reference: Side, before: Side, season: Side | None, past: Side) -> Moved:
    """A window's rows `now` against the reference, the weeks `before` and the same season a year ago. `past`: the days
    whose swings are usual."""
    swing = past.swing(max(1, len(now.days)))
    least = problem.monitoring.psi
    enough = before if len(before.days) >= LEAST else None
    return Moved(
        snapshot=_judged(problem, reference, now),
        trailing=None if enough is None else _judged(problem, enough, now),
        season=None if season is None else _unlike(_judged(problem, season, now), least),
        swing={} if swing is None else dict(zip(now.bins, np.maximum(swing, least).tolist(), strict=True)),
    )


def _judged(problem: Problem, reference: Side, now: Side) -> Drift:
    """Features and scores are two families of tests: each gets half of the false-alarm rate. A column with no value in
    the whole reference was not there yet, and has not drifted."""
    watched, monitoring = reference.counts, problem.monitoring
    found = judge(now.bins, watched, now.counts, monitoring.psi, monitoring.false_alarm_rate / 2)
    return replace(found, columns=tuple(replace(c, drifted=c.drifted and c.missing[0] < 1) for c in found.columns))


def _unlike(found: Drift, least: float) -> Drift:
    """Of last year's season is asked whether it was the same, and that a test does not reject shows no such thing."""
    return replace(found, columns=tuple(replace(c, drifted=c.psi > least) for c in found.columns))


def _days(side: Side, chosen: Array) -> Side:
    return Side(side.bins, side.days[chosen], Counts(side.counts.matrix[chosen]))


def _both(snapshot: Side, logged: Side, now: Side) -> Side | None:
    """The season's days: of the snapshot, and of predictions where the snapshot has none. None where they are few."""
    first, last = (np.datetime64(now.days[i] - np.timedelta64(YEAR.days, "D")) for i in (0, -1))
    around = np.timedelta64(SEASON.days, "D")
    mine = _days(snapshot, (snapshot.days >= first - around) & (snapshot.days <= last + around))
    new = _days(logged, ~np.isin(logged.days, mine.days))
    days = np.concatenate([mine.days, new.days])
    if len(days) < LEAST:
        return None
    return Side(snapshot.bins, days, Counts(np.concatenate([mine.counts.matrix, new.counts.matrix])))


def findings(moved: Moved, cause: str) -> list[Finding]:
    """One for each column that drifted from the snapshot or from the weeks before. `cause`: of what it is."""
    names = {c.name for side in (moved.snapshot, moved.trailing) if side is not None for c in side.drifted}
    return [_finding(moved, c, cause) for c in moved.snapshot.columns if c.name in names]


def _finding(moved: Moved, column: ColumnDrift, cause: str) -> Finding:
    name, page = column.name, moved.pages(column.name)
    figures = {"psi": round(column.psi, 4), "p_value": round(column.p_value, 4)}
    against = [f"PSI {column.psi:.2f} against the training rows"]
    if moved.trailing is not None:
        recent = _named(moved.trailing, name)
        figures |= {"trailing_psi": round(recent.psi, 4), "trailing_p_value": round(recent.p_value, 4)}
        against.append(f"{recent.psi:.2f} against the {counted(TRAILING, 'day')} before")
    if name in moved.swing:
        figures["usual"] = round(moved.swing[name], 4)
    said = ", further than it ever did" if page else ""
    if moved.season is not None:
        last = _named(moved.season, name)
        figures |= {"season_psi": round(last.psi, 4)}
        if not last.drifted and not page:
            said = ": as it was in the same season a year before"
    told = f"{name} moved{said} ({', '.join(against)})."
    return Finding(check="drift", subject=name, cause=cause, page=page, sentence=told, figures=figures)


def _named(found: Drift, name: str) -> ColumnDrift:
    return next(column for column in found.columns if column.name == name)
