"""Drift of a window of predictions: whether it moved further from the weeks before it than any such window did.

A season moves columns as well, and slowly: against the training rows, which are of other seasons, a column may be far
away, and within its seasonal range as long as it goes no faster than it ever did. Where the same weeks of the year
before are known, what was so then is within that range too.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from truecourse.monitoring.drift.consecutive_windows import (
    JOINT,
    Days,
    Evidence,
    WindowTestResult,
    compare_windows,
    concatenate,
)
from truecourse.monitoring.drift.daily_counts import (
    DAY,
    DayCounts,
    feature_histograms,
    read_daily_counts,
    score_histograms,
    to_days,
)
from truecourse.monitoring.drift.histograms import Array, Counts
from truecourse.monitoring.drift.permutation_test import ColumnDrift, Drift, describe_drift
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, DailyHistograms, ReferenceProfile
from truecourse.monitoring.drift.relations import moments
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import MIN_HISTORY
from truecourse.problem import Problem
from truecourse.problem.schema import RESERVED_PREFIX
from truecourse.storage.tables import Tables
from truecourse.wording import counted

YEAR, SEASON = timedelta(days=364), timedelta(days=14)
"""52 weeks, so that weekdays meet; and what counts as the same season before and after."""
HISTORY = 182
"""Days of predictions before a window that tell how far such windows move; the snapshot's days come on top."""
RELATION = "relation drift"


@dataclass(frozen=True)
class DriftResult:
    """A family of columns. `snapshot`: against the training rows, with what was found; `trailing`: against the weeks
    before, None where there are too few. `seasonal`: columns that are far from the training rows, within their seasonal
    range. `tested`: what the test of consecutive windows says; None without time."""

    snapshot: Drift
    trailing: Drift | None
    season: Drift | None
    seasonal: tuple[str, ...] = ()
    tested: WindowTestResult | None = None

    @property
    def missing(self) -> str:
        """What is missing before anything can be told; empty where it can."""
        return self.tested.missing if self.tested else ""

    def is_critical(self, name: str) -> bool:
        """A relation wakes nobody: with a short past, seasons change it by as much as a fault does."""
        found = self.evidence(name)
        return found is not None and found.drifted and found.critical and found.aspect not in JOINT

    def evidence(self, name: str) -> Evidence | None:
        """What weighs most of a column: what it does by itself, or else that it no longer goes with the others."""
        if self.tested is None:
            return None
        own, joint = self.tested.columns.get(name), self.tested.relations.get(name)
        return joint if joint is not None and joint.drifted and not (own and own.drifted) else own


@dataclass(frozen=True)
class WindowDays:
    """Sketches of a window's days, of those before it, and of the same season a year before."""

    now: list[DayCounts]
    before: list[DayCounts]
    season: list[DayCounts]


def read_windows(
    problem: Problem, tables: Tables, profile: ReferenceProfile, start: datetime, end: datetime
) -> WindowDays:
    """The days before are the weeks before, and those since the snapshot's last day, HISTORY at most."""

    def read(first: datetime, last: datetime) -> list[DayCounts]:
        return read_daily_counts(problem, tables, profile, first, last)

    known = profile.every.days[profile.every.days < np.datetime64(start, "D")]
    first = start - TRAILING_DAYS * DAY
    if len(known):
        newest = known[-1].astype("datetime64[us]").item() + DAY
        first = min(first, max(newest, start - HISTORY * DAY))
    return WindowDays(read(start, end), read(first, start), read(start - YEAR - SEASON, end - YEAR + SEASON))


def feature_drift(problem: Problem, profile: ReferenceProfile, seen: WindowDays) -> DriftResult:
    """The features that the models saw."""
    now = to_days(profile, seen.now)
    snapshot = Days(profile.every, moments(profile.sums), profile.relations.names)
    season = _both(profile.every, feature_histograms(profile, seen.season), now.side)
    return compare(problem, now, profile.features, _past(snapshot, to_days(profile, seen.before), now), season)


def score_drift(problem: Problem, profile: ReferenceProfile, seen: WindowDays) -> DriftResult | None:
    """The champion's scores, against its scores of rows it never saw; None where it made none in the window."""
    now, before = Days(score_histograms(profile, seen.now)), Days(score_histograms(profile, seen.before))
    if not len(now):
        return None
    earlier = _chosen(Days(profile.scores), profile.scores.days < now.side.days.min()).side
    reference = earlier if len(earlier.days) else profile.scored
    return with_public_names(compare(problem, now, reference, _past(Days(profile.scored), before, now), None))


def with_public_names(scores: DriftResult) -> DriftResult:
    """Scores under the names that people know: `score`, for `_tc_score`."""

    def named(found: Drift | None) -> Drift | None:
        if found is None:
            return None
        return replace(found, columns=tuple(replace(c, name=_known_as(c.name)) for c in found.columns))

    snapshot = named(scores.snapshot)
    assert snapshot is not None
    tested = scores.tested
    if tested is not None:
        tested = replace(tested, columns={_known_as(name): one for name, one in tested.columns.items()})
    seasonal = tuple(_known_as(name) for name in scores.seasonal)
    return DriftResult(snapshot, named(scores.trailing), named(scores.season), seasonal, tested)


def _known_as(name: str) -> str:
    return name.removeprefix(RESERVED_PREFIX)


def compare(
    problem: Problem, now: Days, reference: DailyHistograms, past: Days, season: DailyHistograms | None
) -> DriftResult:
    """A window's days against the reference and the same season a year ago, and by the test of consecutive windows
    against the days of the `past`. Features and scores are two families: each gets half of the false-alarm rate."""
    least = problem.monitoring.psi
    tested = compare_windows(past, now, least, problem.monitoring.false_alarm_rate / 2)
    names = list(now.side.bins)
    quiet = np.zeros(len(names), dtype=bool)
    same = None if season is None else _described(season, now.side, np.ones(len(names)), quiet)
    found = _found(tested, same, least)
    p_values = np.array([tested.columns[name].p_value if name in tested.columns else 1.0 for name in names])
    drifted = np.array([name in found for name in names])
    snapshot = replace(_described(reference, now.side, p_values, drifted), decidable=not tested.missing)
    enough = _chosen(past, np.arange(len(past)) >= len(past) - TRAILING_DAYS).side if len(past) >= MIN_HISTORY else None
    return DriftResult(
        snapshot=snapshot,
        trailing=None if enough is None else _described(enough, now.side, p_values, drifted),
        season=same,
        seasonal=() if tested.missing else tuple(c.name for c in snapshot.columns if _away(c, snapshot, least)),
        tested=tested,
    )


def _found(tested: WindowTestResult, season: Drift | None, least: float) -> set[str]:
    """Columns that drifted by themselves, and were not so a year before. Where there is none, the one that no longer
    goes with the others: a column that moves takes its relations with it, and a relation has two ends."""
    then = {} if season is None else {column.name: column.psi for column in season.columns}
    moved = {name for name, one in tested.columns.items() if one.drifted}
    found = {name for name in moved if then.get(name, np.inf) > least}
    joint = {name: one.z for name, one in tested.relations.items() if one.drifted}
    return {max(joint, key=lambda name: joint[name])} if joint and not moved else found


def _away(column: ColumnDrift, found: Drift, least: float) -> bool:
    """Whether a column that did not drift is further from the training rows than chance makes of so many rows."""
    chance = (len(column.labels) - 1) * sum(1 / max(rows, 1) for rows in found.rows)
    return not column.drifted and column.psi - chance > least


def _described(reference: DailyHistograms, now: DailyHistograms, p_values: Array, drifted: Array) -> Drift:
    return describe_drift(now.bins, reference.counts, now.counts, p_values, drifted)


def _chosen(days: Days, chosen: Array) -> Days:
    side = DailyHistograms(days.side.bins, days.side.days[chosen], Counts(days.side.counts.matrix[chosen]))
    return Days(side, None if days.moments is None else days.moments[chosen], days.names)


def _past(snapshot: Days, before: Days, now: Days) -> Days:
    """The days before the window: of predictions and of the snapshot, each day from where it has more rows."""
    start, side, own = now.side.days.min(), snapshot.side, before.side
    rows = dict(zip(own.days.tolist(), own.rows().tolist(), strict=True))
    more = np.array(
        [n > rows.get(day, 0) for day, n in zip(side.days.tolist(), side.rows().tolist(), strict=True)], dtype=bool
    )
    kept = _chosen(snapshot, more & (side.days < start))
    both = concatenate(kept, _chosen(before, ~np.isin(own.days, kept.side.days)))
    return _chosen(both, np.argsort(both.side.days))


def _both(snapshot: DailyHistograms, logged: DailyHistograms, now: DailyHistograms) -> DailyHistograms | None:
    """The season's days: of the snapshot, and of predictions where the snapshot has none. None where they are few."""
    first, last = (np.datetime64(now.days[i] - np.timedelta64(YEAR.days, "D")) for i in (0, -1))
    around = np.timedelta64(SEASON.days, "D")
    mine = _chosen(Days(snapshot), (snapshot.days >= first - around) & (snapshot.days <= last + around)).side
    new = _chosen(Days(logged), ~np.isin(logged.days, mine.days)).side
    days = np.concatenate([mine.days, new.days])
    if len(days) < MIN_HISTORY:
        return None
    return DailyHistograms(snapshot.bins, days, Counts(np.concatenate([mine.counts.matrix, new.counts.matrix])))


def findings(moved: DriftResult, cause: str) -> list[Finding]:
    """One for each column that drifted. `cause`: of what it is."""
    return [_finding(moved, column, cause) for column in moved.snapshot.drifted]


def _finding(moved: DriftResult, column: ColumnDrift, cause: str) -> Finding:
    name, evidence = column.name, moved.evidence(column.name)
    figures: dict[str, object] = {"psi": round(column.psi, 4), "p_value": round(column.p_value, 4)}
    against = [f"PSI {column.psi:.2f} against the training rows"]
    if moved.trailing is not None:
        recent = _named(moved.trailing, name)
        figures |= {"trailing_psi": round(recent.psi, 4)}
        against.append(f"{recent.psi:.2f} against the {counted(TRAILING_DAYS, 'day')} before")
    said = f"{name} drifted"
    if evidence is not None:
        figures |= {"aspect": evidence.aspect, "z": round(evidence.z, 2), "times": round(min(evidence.times, 1e6), 2)}
        figures |= {"size": round(evidence.size, 4), "p_value": evidence.p_value}
        further = f"{min(evidence.times, 99):.1f} times as far from the days before as it ever did"
        said = f"{name} drifted: its {evidence.aspect} moved {further}"
        if evidence.aspect in JOINT:
            cause, said = (
                RELATION,
                f"{name} no longer goes with the other columns: what they tell of it moved {further}",
            )
    if moved.season is not None:
        figures |= {"season_psi": round(_named(moved.season, name).psi, 4)}
    page = moved.is_critical(name)
    told = f"{said} ({', '.join(against)})."
    return Finding(check="drift", subject=name, cause=cause, page=page, sentence=told, figures=figures)


def _named(found: Drift, name: str) -> ColumnDrift:
    return next(column for column in found.columns if column.name == name)
