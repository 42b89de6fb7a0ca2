"""Is what the drift check says true as it is scheduled? The problem's own decisions, week after week, after a model
that was fitted to the first months: a clean week with a finding is a false alarm. Then the same weeks with something
planted in them. Columns differ in what weather and season do to them in a week, so many are tried, and the rows say how
it is for the median column and for all of them together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, measure
from benchmarks.home import ready
from truecourse.monitoring.drift import breakage
from truecourse.monitoring.drift.check import DATA
from truecourse.monitoring.drift.daily_counts import DAY, DayCounts, count_day
from truecourse.monitoring.drift.histograms import Array, learn_bins, numbers
from truecourse.monitoring.drift.novelty import count_unseen, seen_values
from truecourse.monitoring.drift.profile_builder import _daily_sums, _unseen_shares, count_by_day
from truecourse.monitoring.drift.reference_profile import ReferenceProfile
from truecourse.monitoring.drift.relations import Relations
from truecourse.monitoring.drift.windows import WindowDays, feature_drift, findings
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.predictions.observed import VERSION, monitored_features
from truecourse.monitoring.predictions.silence import detect_silence
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Snapshot

FITTED = datetime(2013, 6, 1)
"""The model is fitted to what comes before."""
WEEK, PLANTED, TREND = timedelta(days=7), 13, 5
RATE = 0.05
CHANGES = ("shift 0.5", "shift 1", "spread", "shuffle")
LIMITS = {"shift 0.5": 10, "shift 1": 13, "spread": 13, "shuffle": 10}
SAID = {
    "shift 0.5": "a shift of 0.5 sd in one column", "shift 1": "a shift of 1 sd in one column",
    "spread": "the spread of one column doubled", "shuffle": "one column shuffled: no margin changes",
}  # fmt: skip


def rows(quick: bool) -> list[Row]:
    problem = ready("register")
    clean = measure("benchmarks.truth_drift:clean", problem=problem.name).result
    power = measure("benchmarks.truth_drift:power", problem=problem.name, every=14 if quick else 3).result
    rest = measure("benchmarks.truth_drift:rest", problem=problem.name).result
    many = power["columns"]
    told = [
        Row(what=f"drift: of {clean['weeks']} clean consecutive weeks, with a finding",
            value=100 * clean["found"] / clean["weeks"], unit="%", limit=100 * RATE),
        Row(what="drift: weeks among these in which the season moved columns, said so and no finding",
            value=clean["seasonal"], unit="weeks"),
    ]  # fmt: skip
    for name in CHANGES:
        windows = np.array(power[name])
        what = f"drift: {SAID[name]}, found in windows of {PLANTED}"
        told += [
            Row(what=f"{what}: the median of {many} columns", value=float(np.median(windows)), unit="",
                limit=LIMITS[name], sense="at least"),
            Row(what=f"{what}: the mean of all columns", value=float(windows.mean()), unit=""),
            Row(what=f"drift: {SAID[name]}, columns of {many} found in all windows",
                value=float((windows == PLANTED).sum()), unit=""),
        ]  # fmt: skip
    return told + [
        Row(what=f"drift: {what}", value=value, unit=f"of {of}", limit=of, sense="at least")
        for what, (value, of) in rest.items()
    ]


@dataclass(frozen=True)
class World:
    """Decisions of a year, with what a champion of FITTED is watched by."""

    problem: Any
    frame: pa.Table
    frozen: ReferenceProfile

    @classmethod
    def of(cls, name: str) -> "World":
        from truecourse.modeling.snapshot import load_frame
        from truecourse.registry import versions as registry
        from truecourse.registry.runs import trained_run
        from truecourse.storage.tables import Tables

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
        frozen = ReferenceProfile(
            version=ModelVersion(problem=name, version=1, run_id="", model_sha256=""),
            snapshot=Snapshot(problem=name, sha256="", rows=len(fitted)),
            key="", features=counted, every=counted, scores=counted, scored=counted, against="",
            seen_values=seen, unseen_shares=_unseen_shares(seen, recent), relations=relations,
            sums=_daily_sums(relations, fitted),
        )  # fmt: skip
        return cls(problem, frame, frozen)

    @cached_property
    def places(self) -> dict[datetime, tuple[int, int]]:
        """The first row of each day, and how many there are."""
        days = self.frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
        found, first, count = np.unique(days, return_index=True, return_counts=True)
        told = zip(found.astype("datetime64[us]").tolist(), first.tolist(), count.tolist(), strict=True)
        return {day: (place, rows) for day, place, rows in told}

    def rows(self, day: datetime) -> pa.Table:
        return self.frame.slice(*self.places[day])

    @cached_property
    def sketches(self) -> list[DayCounts]:
        days = [day for day in self.places if day >= FITTED]
        return [self.sketch(day, self.rows(day)) for day in days]

    def sketch(self, day: datetime, rows: pa.Table) -> DayCounts:
        return count_day(self.frozen, [rows.append_column("_tc_moment", rows["decision_time"])], len(rows), day)

    def weeks(self) -> list[datetime]:
        last = max(self.places) + DAY
        starts = [FITTED + number * WEEK for number in range(53)]
        return [start for start in starts if start + WEEK <= last + DAY]

    def check(
        self, start: datetime, planted: list[DayCounts] | None = None, days: int = 7
    ) -> tuple[list[Finding], bool]:
        """As the check looks at the week from `start` on, or its first days; and whether the season moved a column."""
        now = [one for one in self.sketches if start <= one.day < start + WEEK] if planted is None else planted
        mine = {one.day for one in now}
        before = [one for one in self.sketches if one.day < min(mine)]
        week = [one for one in [*before, *now] if one.day > now[days - 1].day - WEEK and one.day <= now[days - 1].day]
        earlier = [one for one in before if one.day < week[0].day]
        data = feature_drift(self.problem, self.frozen, WindowDays(week, earlier, []))
        broken = breakage.find_breakage(self.problem, self.frozen, [*before, *now[:days]], now[:days])
        volume = breakage.find_volume_changes(self.problem, [*before, *now[:days]], start, now[days - 1].day + DAY)
        return [*findings(data, DATA), *broken, *volume], bool(data.seasonal)

    def changed(self, start: datetime, change: Callable[[pa.Table], pa.Table], name: str = "") -> list[DayCounts]:
        """The days of the week from `start` on, their rows changed together; in the column `name` alone, if that is
        given."""
        days = [day for day in self.places if start <= day < start + WEEK]
        first = self.places[days[0]][0]
        sizes = [self.places[day] for day in days]
        rows = change(self.frame.slice(first, sum(count for _, count in sizes)))
        parts = [rows.slice(place - first, count) for place, count in sizes]
        if name:
            return [self._sketch_of_column(day, part, name) for day, part in zip(days, parts, strict=True)]
        return [self.sketch(day, part) for day, part in zip(days, parts, strict=True)]

    def _sketch_of_column(self, day: datetime, rows: pa.Table, name: str) -> DayCounts:
        """The clean day's sketch with what one column changes of it, which is quicker."""
        bins, clean = self.frozen.features.bins, next(one for one in self.sketches if one.day == day)
        place = int(self.frozen.features.starts[list(bins).index(name)])
        counts = np.bincount(bins[name].codes(rows[name]), minlength=len(bins[name].labels)).tolist()
        odd = {other: found for other, found in clean.odd.items() if other != name}
        if name in self.frozen.seen_values:
            odd |= count_unseen({name: self.frozen.seen_values[name]}, rows)
        sums = self.frozen.relations.sums(rows, "decision_time").ravel().tolist()
        features = (*clean.features[:place], *counts, *clean.features[place + len(counts) :])
        return clean.model_copy(update={"features": features, "odd": odd, "sums": tuple(sums)})


def with_values(rows: pa.Table, name: str, values: Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, from_pandas=True))


def planted(name: str, how: str, seed: int) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        values = numbers(rows[name])
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


def windows_of(world: World, count: int = PLANTED, room: int = 0) -> list[datetime]:
    weeks = world.weeks()
    return [weeks[int(place)] for place in np.linspace(0, len(weeks) - 1 - room, count)]


def clean(problem: str) -> Callable[[], dict[str, Any]]:
    world = World.of(problem)

    def run() -> dict[str, Any]:
        told = [world.check(start) for start in world.weeks()]
        listed = [one.sentence for found, _ in told for one in found]
        found = sum(bool(found) for found, _ in told)
        return {"weeks": len(told), "found": found, "seasonal": sum(s for _, s in told), "said": listed}

    return run


def power(problem: str, every: int) -> Callable[[], dict[str, Any]]:
    """By change and column, in how many windows there is a finding of the data."""
    world = World.of(problem)
    names = list(world.frozen.relations.names)[::every]

    def run() -> dict[str, Any]:
        starts = windows_of(world)
        quiet = {start: {one.key for one in world.check(start)[0]} for start in starts}

        def found(name: str, how: str, start: datetime, seed: int) -> bool:
            told, _ = world.check(start, world.changed(start, planted(name, how, seed), name))
            return bool({one.key for one in told} - quiet[start])

        counted = {
            how: [sum(found(name, how, start, seed) for seed, start in enumerate(starts)) for name in names]
            for how in CHANGES
        }
        return {"columns": len(names), "names": names, **counted}

    return run


def rest(problem: str) -> Callable[[], dict[str, tuple[int, int]]]:
    world = World.of(problem)
    return lambda: {
        **dict(_categories(world)),
        f"a trend of 0.1 sd a week in every column, by week {TREND}": _trends(world),
        "a column that is never missing, missing in half of a week's rows, pages": _missing(world),
        "20 days without a prediction, after daily ones": _silent(world),
        "13 predictions made by hand, unknown with what is missing": _by_hand(world),
    }


def _categories(world: World) -> Iterator[tuple[str, tuple[int, int]]]:
    starts = windows_of(world)
    texts = [name for name, values in world.frozen.seen_values.items() if isinstance(values, pa.Array)]
    for day in (1, 4, 7):
        found = 0
        for name in texts:
            for seed, start in enumerate(starts):

                def change(rows: pa.Table, name: str = name, seed: int = seed) -> pa.Table:
                    values = rows[name].to_numpy(zero_copy_only=False).astype(object).copy()
                    values[seed % 200 :: 200] = "never seen"
                    return with_values(rows, name, values)

                told, _ = world.check(start, world.changed(start, change, name), day)
                found += (name, "new category") in [(one.subject, one.cause) for one in told]
        yield f"a new category in 0.5% of rows, found on day {day} of its week", (found, len(texts) * len(starts))


def _trends(world: World) -> tuple[int, int]:
    starts, found = windows_of(world, room=TREND), 0
    deviations = {name: float(np.nanstd(numbers(world.frame[name]))) for name in world.frozen.relations.names}
    for start in starts:
        sketches = []
        for week in range(TREND):

            def change(rows: pa.Table, by: float = 0.1 * (week + 1)) -> pa.Table:
                for name, deviation in deviations.items():
                    rows = with_values(rows, name, numbers(rows[name]) + by * deviation)
                return rows

            sketches += world.changed(start + week * WEEK, change)
        kept = world.sketches
        creeping = {one.day: one for one in sketches}
        world.__dict__["sketches"] = [creeping.get(one.day, one) for one in kept]
        found += any(world.check(start + week * WEEK)[0] for week in range(TREND))
        world.__dict__["sketches"] = kept
    return found, len(starts)


def _missing(world: World) -> tuple[int, int]:
    starts, names = windows_of(world), list(world.frozen.features.bins)
    whole = [name for name, gone in zip(names, world.frozen.features.missing().sum(axis=0), strict=True) if gone == 0]
    found = 0
    for seed, start in enumerate(starts):
        name = whole[seed % len(whole)]

        def change(rows: pa.Table, name: str = name, seed: int = seed) -> pa.Table:
            gone = np.random.default_rng(seed).random(len(rows)) < 0.5
            place = rows.column_names.index(name)
            return rows.set_column(place, name, pc.if_else(pa.array(gone), None, rows[name]))

        told, _ = world.check(start, world.changed(start, change, name))
        found += any(one.page and one.subject == name and one.cause == "missing values" for one in told)
    return found, len(starts)


def _silent(world: World) -> tuple[int, int]:
    days: list[date] = [day.date() for day in world.places]
    newest = datetime.combine(days[-1], datetime.max.time())
    return int(detect_silence("flights", days, newest, newest + timedelta(days=20)) is not None), 1


def _by_hand(world: World) -> tuple[int, int]:
    starts = windows_of(world)
    unknown = 0
    for start in starts:
        rows = self_made(world, start)
        before = [one for one in world.sketches if one.day < start]
        moved = feature_drift(world.problem, world.frozen, WindowDays([world.sketch(start, rows)], before, []))
        unknown += moved.missing.startswith("87 more rows") and not findings(moved, DATA)
    return unknown, len(starts)


def self_made(world: World, start: datetime) -> pa.Table:
    return world.rows(start).slice(0, 13)
