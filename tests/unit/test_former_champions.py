"""Label detectors over promotions and rollbacks: each closed cohort is evidence, once, with any champion."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.closed_cohorts import FIRST
from tests.unit.test_label_rule import CLASSES, KINDS, apply_new_rule, cohort, world
from truecourse.arrays import Array
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.degradation import Alarm, FormerLabels, find_alarms, label_scale
from truecourse.monitoring.quality.e_detector import Series, accumulate
from truecourse.monitoring.quality.streams import JoinedStream, Stream
from truecourse.problem.definition import Kind
from truecourse.problem.monitoring import QualityWatch

A_DAY, BASELINE = 600, 30
REIGNS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 8)), min_size=1, max_size=6)
"""Champions one after another, each with its number of days; the same number again is a rollback."""


@dataclass(frozen=True)
class History:
    """The cohorts of each version, by the champions of each day. On the first day of a champion the former one served
    the first hours. `every`: days from one day of decisions to the next. `changed`: the number of the first day with
    another label rule."""

    kind: Kind
    champions: Sequence[int]
    every: int = 1
    changed: int = 10**6
    seed: int = 0

    def versions_of(self, number: int) -> list[int]:
        return sorted(set(self.champions[max(number - 1, 0) : number + 1]))

    def cohorts(self) -> dict[int, list[Cohort]]:
        """By version; the first BASELINE days are the baseline of all versions, so each version has them."""
        random, found = np.random.default_rng(self.seed), {version: list[Cohort]() for version in self.champions}
        for number in range(-BASELINE, len(self.champions)):
            predicted, labels = world(self.kind, A_DAY, random)
            labels = apply_new_rule(self.kind, labels, random) if number >= self.changed else labels
            versions = list(found) if number < 0 else self.versions_of(number)
            for place, version in enumerate(versions):
                rows = slice(None) if number < 0 else slice(place, None, len(versions))
                day = (BASELINE + number) * self.every
                found[version].append(cohort(self.kind, day, predicted[rows], labels[rows]))
        return found

    def alarms(self, champion: int) -> list[Alarm]:
        """The alarms of a check with this champion, which may have no closed cohort yet."""
        labels = [FormerLabels(version, days[:BASELINE], days[BASELINE:], label_scale(self.kind, days[:BASELINE])[0])
                  for version, days in self.cohorts().items()]  # fmt: skip
        own = next((one for one in labels if one.version == champion), FormerLabels(champion, [], [], 0.0))
        scale, loss = label_scale(self.kind, own.usual)
        former, classes = [one for one in labels if one.version != champion], CLASSES[self.kind]
        return find_alarms(own.usual, own.usual, own.days, QualityWatch(), scale, loss, classes, champion, former)

    def day(self, number: int) -> timedelta:
        return timedelta(days=(BASELINE + number) * self.every)


def champions_by_day(reigns: Sequence[tuple[int, int]]) -> list[int]:
    return [version for version, days in reigns for _ in range(days)]


@settings(max_examples=40, derandomize=True)
@given(st.sampled_from(KINDS), REIGNS, st.sampled_from([1, 30]), st.sampled_from(["last", "new", "first"]))
def test_a_new_label_rule_is_found_whatever_was_promoted(
    kind: Kind, reigns: list[tuple[int, int]], every: int, after: str
) -> None:
    """Two days by another rule, then perhaps a promotion (the new champion has no cohort) or a rollback."""
    by_day = champions_by_day([*reigns, (reigns[-1][0], 2)])
    changed = len(by_day) - 2
    champion = {"last": by_day[-1], "new": 9, "first": by_day[0]}[after]
    clean, other = (History(kind, by_day, every, changed=day) for day in (10**6, changed))
    assert [alarm for alarm in clean.alarms(champion) if alarm.stream in ("labels", "turned")] == []
    (alarm,) = [alarm for alarm in other.alarms(champion) if alarm.stream == "turned"]
    assert alarm.since == FIRST + other.day(changed)
    assert alarm.versions == tuple(sorted({*other.versions_of(changed), *other.versions_of(changed + 1)}))


@given(st.integers(0, 5), st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=40))
def test_each_cohort_counts_once_with_its_own_evidence(seed: int, served: list[list[bool]]) -> None:
    """`served`: by day, which of three versions have a cohort."""
    streams = [part for number in range(3) if (part := stream([row[number] for row in served], seed + number))]
    if not streams:
        return
    joined = JoinedStream.of(streams)
    assert joined is not None
    assert joined.day.tolist() == [day for day, row in enumerate(served) if any(row)]
    np.testing.assert_allclose(joined.weights.sum(axis=0), 1)
    for place, day in enumerate(joined.day):
        own = [alone.e_values[:, alone.day == day][:, 0] for one in streams if day in one.days.day
               and (alone := JoinedStream.of([one]))]  # fmt: skip
        assert np.count_nonzero(joined.weights[:, place]) == len(own)
        np.testing.assert_allclose(joined.e_values[:, place], np.mean(own, axis=0))  # the days have equal precision


def stream(served: Sequence[bool], seed: int, values: Array | None = None) -> Stream | None:
    """The stream of one version, with its cohorts on the days that it `served`; None without any."""
    days = np.flatnonzero(served).astype(np.float64)
    random = np.random.default_rng(seed)
    before = Series(np.arange(-40.0, 0.0), random.normal(size=40), np.full(40, 0.5))
    own = (random.normal(size=len(served)) if values is None else values)[np.flatnonzero(served)]
    now = Series(days, own, np.full(len(days), 0.5))
    return Stream("labels", 1, before, now, (own, 0.0), 0.02, 2.5, recent=True) if len(days) else None


def test_promotions_do_not_raise_the_false_alarm_rate() -> None:
    """100 correlated days with a promotion every fifth, when both versions serve: daily checks alarm in at most 5%."""
    days, trials, memory, rate, found = 100, 150, 0.7, 0.05, 0
    for trial in range(trials):
        random, values = np.random.default_rng(trial), [0.0]
        for fresh in random.normal(size=60 + days):
            values.append(memory * values[-1] + np.sqrt(1 - memory**2) * fresh)
        world = np.array(values)
        streams = []
        for first in range(0, days, 5):
            place = np.arange(61 + first - 40, 61 + first)
            before = Series(place - 61.0, world[place] + 0.1 * random.normal(size=40), np.full(40, 0.01))
            ahead = np.arange(first, min(first + 6, days))
            own = world[61 + ahead] + 0.1 * random.normal(size=len(ahead))
            now = Series(ahead.astype(np.float64), own, np.full(len(ahead), 0.01))
            streams.append(Stream("labels", 1, before, now, (own, 0.0), 0.0, 2.5, recent=True))
        joined = JoinedStream.of(streams)
        assert joined is not None
        found += bool((accumulate(joined.e_values) >= days / rate).any())
    assert found / trials <= rate + 2 * np.sqrt(rate * (1 - rate) / trials)
