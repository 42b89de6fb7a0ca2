"""False alarm rate and power of the scheduled drift check, on the problem's own decisions.

The reference model is fitted to the first months. The check runs week after week: a finding in an unchanged week is a
false alarm. Then changes are planted in the same weeks. Season and weather affect columns differently, so many columns
are tried, and the results are reported for the median column and for all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, measure
from benchmarks.home import ensure_steps
from truecourse.monitoring.drift import breakage
from truecourse.monitoring.drift.daily_counts import DAY, DayCounts, count_day
from truecourse.monitoring.drift.drift_check import DATA
from truecourse.monitoring.drift.histograms import Array, learn_bins, to_numbers
from truecourse.monitoring.drift.reference_profile import ReferenceProfile, count_by_day, daily_sums, unseen_shares
from truecourse.monitoring.drift.relations import Relations
from truecourse.monitoring.drift.unseen_values import count_unseen, seen_values
from truecourse.monitoring.drift.window_drift import WindowDays, build_findings, compute_feature_drift
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.observed_predictions import VERSION, monitored_features
from truecourse.monitoring.predictions.silence import detect_silence
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Snapshot

FITTED = datetime(2013, 6, 1)
"""The model is fitted to the decisions before this time."""
WEEK, PLANTED, TREND = timedelta(days=7), 13, 5
RATE = 0.05
CHANGES = ("shift 0.5", "shift 1", "spread", "shuffle")
LIMITS = {"shift 0.5": 10, "shift 1": 13, "spread": 13, "shuffle": 10}
DESCRIPTIONS = {
    "shift 0.5": "a shift of 0.5 sd in one column", "shift 1": "a shift of 1 sd in one column",
    "spread": "the spread of one column doubled", "shuffle": "one column shuffled: its distribution does not change",
}  # fmt: skip


def rows(quick: bool) -> list[Row]:
    problem = ensure_steps("register")
    clean = measure("benchmarks.truth.drift:clean", problem=problem.name).result
    power = measure("benchmarks.truth.drift:power", problem=problem.name, every=14 if quick else 3).result
    rest = measure("benchmarks.truth.drift:rest", problem=problem.name).result
    many = power["columns"]
    measured = [
        Row(what=f"drift: of {clean['weeks']} clean consecutive weeks, with a finding",
            value=100 * clean["found"] / clean["weeks"], unit="%", limit=100 * RATE),
        Row(what="drift: of these weeks, with columns within their seasonal range and no finding",
            value=clean["seasonal"], unit="weeks"),
    ]  # fmt: skip
    for name in CHANGES:
        windows = np.array(power[name])
        what = f"drift: {DESCRIPTIONS[name]}, found in windows of {PLANTED}"
        measured += [
            Row(what=f"{what}: the median of {many} columns", value=float(np.median(windows)), unit="",
                limit=LIMITS[name], sense="at least"),
            Row(what=f"{what}: the mean of all columns", value=float(windows.mean()), unit=""),
            Row(what=f"drift: {DESCRIPTIONS[name]}, columns of {many} found in all windows",
                value=float((windows == PLANTED).sum()), unit=""),
        ]  # fmt: skip
    return measured + [
        Row(what=f"drift: {what}", value=value, unit=f"of {of}", limit=of, sense="at least")
        for what, (value, of) in rest.items()
    ]


@dataclass(frozen=True)
class YearOfDecisions:
    """Decisions of a year, and the reference profile of a champion fitted before FITTED."""

    problem: Any
    frame: pa.Table
    profile: ReferenceProfile

    @classmethod
    def of(cls, name: str) -> "YearOfDecisions":
        from truecourse.modeling.snapshot import load_frame
        from truecourse.registry import versions as registry
        from truecourse.registry.runs import trained_run
        from truecourse.storage.delta_tables import Tables

        problem, champion = load_problem(name), registry.champion(name)
        assert champion is not None
        frame = load_frame(Tables().store, trained_run(name, champion.run_id).snapshot)
        names = list(monitored_features(problem))
        frame = (
            frame.select(["decision_time", *names])
            .sort_by("decision_time")
            .append_column(VERSION, pa.array([1] * len(frame), pa.int64()))
        )
        fitted = frame.filter(pc.less(frame["decision_time"], pa.scalar(FITTED, pa.timestamp("us", tz="UTC"))))
        by = learn_bins(fitted, names, problem.monitoring.bins)
        seen, relations, counted = (
            seen_values(fitted, names),
            Relations.learn(fitted, by, "decision_time"),
            count_by_day(by, fitted),
        )
        recent = fitted.filter(
            pc.greater(fitted["decision_time"], pa.scalar(FITTED - 4 * WEEK, pa.timestamp("us", tz="UTC")))
        )
        profile = ReferenceProfile(
            version=ModelVersion(problem=name, version=1, run_id="", model_sha256=""),
            snapshot=Snapshot(problem=name, sha256="", rows=len(fitted)),
            key="", features=counted, every=counted, scores=counted, scored=counted, against="",
            seen_values=seen, unseen_shares=unseen_shares(seen, recent), relations=relations,
            sums=daily_sums(relations, fitted),
        )  # fmt: skip
        return cls(problem, frame, profile)

    @cached_property
    def places(self) -> dict[datetime, tuple[int, int]]:
        """By day, the position of its first row and its number of rows."""
        days = self.frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
        found, first, count = np.unique(days, return_index=True, return_counts=True)
        ranges = zip(found.astype("datetime64[us]").tolist(), first.tolist(), count.tolist(), strict=True)
        return {day: (place, rows) for day, place, rows in ranges}

    def rows(self, day: datetime) -> pa.Table:
        return self.frame.slice(*self.places[day])

    @cached_property
    def daily_counts(self) -> list[DayCounts]:
        days = [day for day in self.places if day >= FITTED]
        return [self.count(day, self.rows(day)) for day in days]

    def count(self, day: datetime, rows: pa.Table) -> DayCounts:
        return count_day(self.profile, [rows.append_column("_tc_moment", rows["decision_time"])], len(rows), day)

    def weeks(self) -> list[datetime]:
        last = max(self.places) + DAY
        starts = [FITTED + number * WEEK for number in range(53)]
        return [start for start in starts if start + WEEK <= last + DAY]

    def check(
        self, start: datetime, planted: list[DayCounts] | None = None, days: int = 7
    ) -> tuple[list[Finding], bool]:
        """Findings for the first `days` days of the week from `start`; and whether a column changed seasonally."""
        now = [one for one in self.daily_counts if start <= one.day < start + WEEK] if planted is None else planted
        mine = {one.day for one in now}
        before = [one for one in self.daily_counts if one.day < min(mine)]
        week = [one for one in [*before, *now] if one.day > now[days - 1].day - WEEK and one.day <= now[days - 1].day]
        earlier = [one for one in before if one.day < week[0].day]
        data = compute_feature_drift(self.problem, self.profile, WindowDays(week, earlier, []))
        broken = breakage.find_breakage(self.problem, self.profile, [*before, *now[:days]], now[:days])
        volume = breakage.find_volume_changes(self.problem, [*before, *now[:days]], start, now[days - 1].day + DAY)
        return [*build_findings(data, DATA), *broken, *volume], bool(data.seasonal)

    def changed(self, start: datetime, change: Callable[[pa.Table], pa.Table], name: str = "") -> list[DayCounts]:
        """The daily counts of the week from `start`, after changing its rows; `name`: the only column that changes."""
        days = [day for day in self.places if start <= day < start + WEEK]
        first = self.places[days[0]][0]
        sizes = [self.places[day] for day in days]
        rows = change(self.frame.slice(first, sum(count for _, count in sizes)))
        parts = [rows.slice(place - first, count) for place, count in sizes]
        if name:
            return [self._count_changed_column(day, part, name) for day, part in zip(days, parts, strict=True)]
        return [self.count(day, part) for day, part in zip(days, parts, strict=True)]

    def _count_changed_column(self, day: datetime, rows: pa.Table, name: str) -> DayCounts:
        """The day's clean counts, updated for one changed column; faster than counting all columns."""
        bins, clean = self.profile.features.bins, next(one for one in self.daily_counts if one.day == day)
        place = int(self.profile.features.starts[list(bins).index(name)])
        counts = np.bincount(bins[name].codes(rows[name]), minlength=len(bins[name].labels)).tolist()
        odd = {other: found for other, found in clean.odd.items() if other != name}
        if name in self.profile.seen_values:
            odd |= count_unseen({name: self.profile.seen_values[name]}, rows)
        sums = self.profile.relations.sums(rows, "decision_time").ravel().tolist()
        features = (*clean.features[:place], *counts, *clean.features[place + len(counts) :])
        return clean.model_copy(update={"features": features, "odd": odd, "sums": tuple(sums)})


def with_values(rows: pa.Table, name: str, values: Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, from_pandas=True))


def plant(name: str, how: str, seed: int) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        values = to_numbers(rows[name])
        there = ~np.isnan(values)
        if how == "shuffle":
            values = values.copy()
            values[there] = np.random.default_rng(seed).permutation(values[there])
        elif how == "spread":
            values = 2 * values - np.nanmean(values)
        else:
            values = values + float(how.removeprefix("shift ")) * np.nanstd(values)
        return with_values(rows, name, values)

    return change


def windows_of(year: YearOfDecisions, count: int = PLANTED, room: int = 0) -> list[datetime]:
    weeks = year.weeks()
    return [weeks[int(place)] for place in np.linspace(0, len(weeks) - 1 - room, count)]


def clean(problem: str) -> Callable[[], dict[str, Any]]:
    year = YearOfDecisions.of(problem)

    def run() -> dict[str, Any]:
        checks = [year.check(start) for start in year.weeks()]
        sentences = [one.sentence for found, _ in checks for one in found]
        found = sum(bool(found) for found, _ in checks)
        return {"weeks": len(checks), "found": found, "seasonal": sum(s for _, s in checks), "sentences": sentences}

    return run


def power(problem: str, every: int) -> Callable[[], dict[str, Any]]:
    """By change and column, the number of windows with an additional finding."""
    year = YearOfDecisions.of(problem)
    names = list(year.profile.relations.names)[::every]

    def run() -> dict[str, Any]:
        starts = windows_of(year)
        clean_findings = {start: {one.key for one in year.check(start)[0]} for start in starts}

        def found(name: str, how: str, start: datetime, seed: int) -> bool:
            found_now, _ = year.check(start, year.changed(start, plant(name, how, seed), name))
            return bool({one.key for one in found_now} - clean_findings[start])

        counted = {
            how: [sum(found(name, how, start, seed) for seed, start in enumerate(starts)) for name in names]
            for how in CHANGES
        }
        return {"columns": len(names), "names": names, **counted}

    return run


def rest(problem: str) -> Callable[[], dict[str, tuple[int, int]]]:
    year = YearOfDecisions.of(problem)
    return lambda: {
        **dict(_categories(year)),
        f"a trend of 0.1 sd a week in every column, by week {TREND}": _trends(year),
        "a complete column, missing in half of a week's rows, is critical": _missing(year),
        "20 days without a prediction, after daily ones": _silent(year),
        "13 predictions of one day, unknown with the number of missing rows": _few_predictions(year),
    }


def _categories(year: YearOfDecisions) -> Iterator[tuple[str, tuple[int, int]]]:
    starts = windows_of(year)
    texts = [name for name, values in year.profile.seen_values.items() if isinstance(values, pa.Array)]
    for day in (1, 4, 7):
        found = 0
        for name in texts:
            for seed, start in enumerate(starts):

                def change(rows: pa.Table, name: str = name, seed: int = seed) -> pa.Table:
                    values = rows[name].to_numpy(zero_copy_only=False).astype(object).copy()
                    values[seed % 200 :: 200] = "never seen"
                    return with_values(rows, name, values)

                found_now, _ = year.check(start, year.changed(start, change, name), day)
                found += (name, "new category") in [(one.subject, one.cause) for one in found_now]
        yield f"a new category in 0.5% of rows, found on day {day} of its week", (found, len(texts) * len(starts))


def _trends(year: YearOfDecisions) -> tuple[int, int]:
    starts, found = windows_of(year, room=TREND), 0
    deviations = {name: float(np.nanstd(to_numbers(year.frame[name]))) for name in year.profile.relations.names}
    for start in starts:
        changed_days = []
        for week in range(TREND):

            def change(rows: pa.Table, by: float = 0.1 * (week + 1)) -> pa.Table:
                for name, deviation in deviations.items():
                    rows = with_values(rows, name, to_numbers(rows[name]) + by * deviation)
                return rows

            changed_days += year.changed(start + week * WEEK, change)
        kept = year.daily_counts
        trending = {one.day: one for one in changed_days}
        year.__dict__["daily_counts"] = [trending.get(one.day, one) for one in kept]
        found += any(year.check(start + week * WEEK)[0] for week in range(TREND))
        year.__dict__["daily_counts"] = kept
    return found, len(starts)


def _missing(year: YearOfDecisions) -> tuple[int, int]:
    starts, names = windows_of(year), list(year.profile.features.bins)
    complete = [
        name for name, gone in zip(names, year.profile.features.missing().sum(axis=0), strict=True) if gone == 0
    ]
    found = 0
    for seed, start in enumerate(starts):
        name = complete[seed % len(complete)]

        def change(rows: pa.Table, name: str = name, seed: int = seed) -> pa.Table:
            gone = np.random.default_rng(seed).random(len(rows)) < 0.5
            place = rows.column_names.index(name)
            return rows.set_column(place, name, pc.if_else(pa.array(gone), None, rows[name]))

        found_now, _ = year.check(start, year.changed(start, change, name))
        found += any(one.page and one.subject == name and one.cause == "missing values" for one in found_now)
    return found, len(starts)


def _silent(year: YearOfDecisions) -> tuple[int, int]:
    days: list[date] = [day.date() for day in year.places]
    newest = datetime.combine(days[-1], datetime.max.time())
    return int(detect_silence("flights", days, newest, newest + timedelta(days=20)) is not None), 1


def _few_predictions(year: YearOfDecisions) -> tuple[int, int]:
    starts = windows_of(year)
    unknown = 0
    for start in starts:
        rows = first_predictions(year, start)
        before = [one for one in year.daily_counts if one.day < start]
        drift = compute_feature_drift(year.problem, year.profile, WindowDays([year.count(start, rows)], before, []))
        unknown += drift.missing.startswith("87 more rows") and not build_findings(drift, DATA)
    return unknown, len(starts)


def first_predictions(year: YearOfDecisions, start: datetime) -> pa.Table:
    return year.rows(start).slice(0, 13)
