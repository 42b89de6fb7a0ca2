"""Drift of a window of predictions: whether it changed more against the weeks before it than any past window did.

Seasons change columns too, but slowly. Compared with training rows of other seasons, a column may be far away and still
within its seasonal range, as long as it changes no faster than before. Where the same weeks of the year before are
available, a column that is like them is within that range too.
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
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import MIN_HISTORY
from truecourse.problem import Problem
from truecourse.problem.schema import RESERVED_PREFIX
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted

YEAR, SEASON = timedelta(days=364), timedelta(days=14)
"""52 weeks, so that weekdays align; and the days before and after that count as the same season."""
HISTORY = 182
"""Days of predictions before a window that serve as history, in addition to the snapshot's days."""
RELATION: Cause = "relation drift"


@dataclass(frozen=True)
class DriftResult:
    """Drift of a family of columns (features or scores).

    `snapshot`: compared with the training rows, with the columns that drifted; `trailing`: with the weeks before, None
    if they are too few; `season`: with the same season a year before. `seasonal`: columns that are far from the
    training rows but within their seasonal range. `tested`: the test of consecutive windows, None without time."""

    snapshot: Drift
    trailing: Drift | None
    season: Drift | None
    seasonal: tuple[str, ...] = ()
    tested: WindowTestResult | None = None

    @property
    def missing(self) -> str:
        """What data the test still needs; empty if it has enough."""
        return self.tested.missing if self.tested else ""

    def is_critical(self, name: str) -> bool:
        """Whether the column's drift is critical. Relation drift never is: with a short history, seasons change
        relations as much as faults do."""
        evidence = self.evidence(name)
        return evidence is not None and evidence.drifted and evidence.critical and evidence.aspect not in JOINT

    def evidence(self, name: str) -> Evidence | None:
        """Return the column's strongest evidence: its own drift, or else the drift of its relation to the others."""
        if self.tested is None:
            return None
        own, relation = self.tested.columns.get(name), self.tested.relations.get(name)
        return relation if relation is not None and relation.drifted and not (own and own.drifted) else own


@dataclass(frozen=True)
class WindowDays:
    """Daily counts of a window, of the days before it, and of the same season a year before."""

    now: list[DayCounts]
    before: list[DayCounts]
    season: list[DayCounts]


def read_windows(
    problem: Problem, tables: Tables, profile: ReferenceProfile, start: datetime, end: datetime
) -> WindowDays:
    """Read the daily counts of a window. The days before it are the TRAILING_DAYS before, and those since the
    snapshot's last day, HISTORY at most."""

    def read(first: datetime, last: datetime) -> list[DayCounts]:
        return read_daily_counts(problem, tables, profile, first, last)

    known = profile.every.days[profile.every.days < np.datetime64(start, "D")]
    first = start - TRAILING_DAYS * DAY
    if len(known):
        newest = known[-1].astype("datetime64[us]").item() + DAY
        first = min(first, max(newest, start - HISTORY * DAY))
    return WindowDays(read(start, end), read(first, start), read(start - YEAR - SEASON, end - YEAR + SEASON))


def compute_feature_drift(problem: Problem, profile: ReferenceProfile, days: WindowDays) -> DriftResult:
    """Test the features of the predictions for drift."""
    now = to_days(profile, days.now)
    snapshot = Days(profile.every, moments(profile.sums), profile.relations.names)
    season = _season_days(profile.every, feature_histograms(profile, days.season), now.histograms)
    return compare(problem, now, profile.features, _history(snapshot, to_days(profile, days.before), now), season)


def compute_score_drift(problem: Problem, profile: ReferenceProfile, days: WindowDays) -> DriftResult | None:
    """Test the champion's scores against its scores of held-out rows. None without its scores in the window."""
    now, before = Days(score_histograms(profile, days.now)), Days(score_histograms(profile, days.before))
    if not len(now):
        return None
    earlier = _select(Days(profile.scores), profile.scores.days < now.histograms.days.min()).histograms
    reference = earlier if len(earlier.days) else profile.scored
    return with_public_names(compare(problem, now, reference, _history(Days(profile.scored), before, now), None))


def with_public_names(scores: DriftResult) -> DriftResult:
    """Rename score columns for display: `score` for `_tc_score`."""

    def rename(drift: Drift | None) -> Drift | None:
        if drift is None:
            return None
        return replace(drift, columns=tuple(replace(c, name=_public_name(c.name)) for c in drift.columns))

    snapshot = rename(scores.snapshot)
    assert snapshot is not None
    tested = scores.tested
    if tested is not None:
        tested = replace(tested, columns={_public_name(name): one for name, one in tested.columns.items()})
    seasonal = tuple(_public_name(name) for name in scores.seasonal)
    return DriftResult(snapshot, rename(scores.trailing), rename(scores.season), seasonal, tested)


def _public_name(name: str) -> str:
    return name.removeprefix(RESERVED_PREFIX)


def compare(
    problem: Problem, now: Days, reference: DailyHistograms, past: Days, season: DailyHistograms | None
) -> DriftResult:
    """Compare a window with the reference and the season a year before, and test it against the windows of the `past`.
    Features and scores are two families of tests; each gets half of the false-alarm rate."""
    threshold = problem.monitoring.psi
    tested = compare_windows(past, now, threshold, problem.monitoring.false_alarm_rate / 2)
    names = list(now.histograms.bins)
    none_drifted = np.zeros(len(names), dtype=bool)
    season_drift = None if season is None else _describe(season, now.histograms, np.ones(len(names)), none_drifted)
    drifted_names = _drifted_columns(tested, season_drift, threshold)
    p_values = np.array([tested.columns[name].p_value if name in tested.columns else 1.0 for name in names])
    drifted = np.array([name in drifted_names for name in names])
    snapshot = replace(_describe(reference, now.histograms, p_values, drifted), decidable=not tested.missing)
    trailing = (
        _select(past, np.arange(len(past)) >= len(past) - TRAILING_DAYS).histograms
        if len(past) >= MIN_HISTORY
        else None
    )
    return DriftResult(
        snapshot=snapshot,
        trailing=None if trailing is None else _describe(trailing, now.histograms, p_values, drifted),
        season=season_drift,
        seasonal=() if tested.missing else tuple(c.name for c in snapshot.columns if _is_far(c, snapshot, threshold)),
        tested=tested,
    )


def _drifted_columns(tested: WindowTestResult, season: Drift | None, threshold: float) -> set[str]:
    """Return the columns that drifted and were different a year before.

    Without any drifted column, return the one whose relation to the others drifted most: a drifted column changes its
    relations too, and each relation involves several columns."""
    season_psi = {} if season is None else {column.name: column.psi for column in season.columns}
    drifted = {name for name, one in tested.columns.items() if one.drifted}
    unseasonal = {name for name in drifted if season_psi.get(name, np.inf) > threshold}
    joint = {name: one.z for name, one in tested.relations.items() if one.drifted}
    return {max(joint, key=lambda name: joint[name])} if joint and not drifted else unseasonal


def _is_far(column: ColumnDrift, drift: Drift, threshold: float) -> bool:
    """Whether a column that did not drift is further from the training rows than sampling error explains."""
    chance = (len(column.labels) - 1) * sum(1 / max(rows, 1) for rows in drift.rows)
    return not column.drifted and column.psi - chance > threshold


def _describe(reference: DailyHistograms, now: DailyHistograms, p_values: Array, drifted: Array) -> Drift:
    return describe_drift(now.bins, reference.counts, now.counts, p_values, drifted)


def _select(days: Days, chosen: Array) -> Days:
    histograms = DailyHistograms(
        days.histograms.bins, days.histograms.days[chosen], Counts(days.histograms.counts.matrix[chosen])
    )
    return Days(histograms, None if days.moments is None else days.moments[chosen], days.names)


def _history(snapshot: Days, before: Days, now: Days) -> Days:
    """Return the days before the window, each from the predictions or the snapshot, whichever has more rows."""
    start, histograms, own = now.histograms.days.min(), snapshot.histograms, before.histograms
    rows = dict(zip(own.days.tolist(), own.rows().tolist(), strict=True))
    more = np.array(
        [n > rows.get(day, 0) for day, n in zip(histograms.days.tolist(), histograms.rows().tolist(), strict=True)],
        dtype=bool,
    )
    kept = _select(snapshot, more & (histograms.days < start))
    both = concatenate(kept, _select(before, ~np.isin(own.days, kept.histograms.days)))
    return _select(both, np.argsort(both.histograms.days))


def _season_days(snapshot: DailyHistograms, logged: DailyHistograms, now: DailyHistograms) -> DailyHistograms | None:
    """Return the season's days: from the snapshot, and from predictions for other days. None with too few days."""
    first, last = (np.datetime64(now.days[i] - np.timedelta64(YEAR.days, "D")) for i in (0, -1))
    around = np.timedelta64(SEASON.days, "D")
    from_snapshot = _select(
        Days(snapshot), (snapshot.days >= first - around) & (snapshot.days <= last + around)
    ).histograms
    from_log = _select(Days(logged), ~np.isin(logged.days, from_snapshot.days)).histograms
    days = np.concatenate([from_snapshot.days, from_log.days])
    if len(days) < MIN_HISTORY:
        return None
    return DailyHistograms(
        snapshot.bins, days, Counts(np.concatenate([from_snapshot.counts.matrix, from_log.counts.matrix]))
    )


def build_findings(result: DriftResult, cause: Cause) -> list[Finding]:
    """Return a finding for each drifted column. `cause`: the cause to state in it."""
    return [_finding(result, column, cause) for column in result.snapshot.drifted]


def _finding(result: DriftResult, column: ColumnDrift, cause: Cause) -> Finding:
    name, evidence = column.name, result.evidence(column.name)
    figures: dict[str, object] = {"psi": round(column.psi, 4), "p_value": round(column.p_value, 4)}
    against = [f"PSI {column.psi:.2f} against the training rows"]
    if result.trailing is not None:
        recent = _named(result.trailing, name)
        figures |= {"trailing_psi": round(recent.psi, 4)}
        against.append(f"{recent.psi:.2f} against the {counted(TRAILING_DAYS, 'day')} before")
    text = f"{name} drifted"
    if evidence is not None:
        figures |= {"aspect": evidence.aspect, "z": round(evidence.z, 2), "times": round(min(evidence.times, 1e6), 2)}
        figures |= {"size": round(evidence.size, 4), "p_value": evidence.p_value}
        extent = f"{min(evidence.times, 99):.1f} times the largest past change"
        if result.tested is not None and result.tested.past is not None:
            figures |= {"past": [str(day) for day in result.tested.past]}
            extent += " of {} to {}".format(*result.tested.past)
        text = f"{name} drifted: the change of its {evidence.aspect} is {extent}"
        if evidence.aspect in JOINT:
            cause = RELATION
            text = f"The relation of {name} to the other columns drifted: the change of its residuals is {extent}"
    if result.season is not None:
        figures |= {"season_psi": round(_named(result.season, name).psi, 4)}
    page = result.is_critical(name)
    sentence = f"{text} ({', '.join(against)})."
    return Finding(check="drift", subject=name, cause=cause, page=page, sentence=sentence, figures=figures)


def _named(drift: Drift, name: str) -> ColumnDrift:
    return next(column for column in drift.columns if column.name == name)
