"""False alarms and power of quality monitoring and label checks, in simulations with a known truth; cost of the record.

The record: a year of checks every five minutes with one open alarm, in a store in memory that counts reads. After the
first days only one check per hour is simulated.

The detectors: outcomes follow the scores, except for a day effect, an AR(1) process as large as that of the flights,
and storms of one or two days. A label is positive if a latent delay exceeds a threshold. The label model sees the delay
with a small error, which has a day effect too. Every critical finding of an unchanged simulation is false. In the
others, from some day on, the threshold is higher so that a seventh of the positives become negative (20 minutes instead
of 15 on the flights), or random label noise raises the loss by a fifth.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.harness import Row
from truecourse.arrays import Array
from truecourse.errors import AlreadyExists, NotFound
from truecourse.hashing import sha256
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts.alert_lifecycle import update_alerts
from truecourse.monitoring.dashboard import control_page
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows, decisions_by_bin, sums_by_bin
from truecourse.monitoring.quality.degradation import build_streams, label_scale, threshold
from truecourse.monitoring.quality.label_delay import check_selection
from truecourse.monitoring.quality.label_model import label_residuals
from truecourse.monitoring.quality.streams import JoinedStream, Stream
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.monitoring import QualityWatch
from truecourse.storage.object_store import StoredObject

START = datetime(2023, 1, 1, tzinfo=UTC)
OFTEN: tuple[Check, ...] = ("pipelines", "endpoint", "machine", "registry")
DAILY: tuple[Check, ...] = ("drift", "quality", "skew")


A_DAY, HELD_OUT, YEAR = 900, 42, 365
LABEL_STREAMS = ("labels", "turned")
PROMOTED = 5
"""Days from one promotion to the next, in the simulations of promotions."""
MOVED, NOISE = 0.14, 0.056
"""Share of positives that the changed rule makes negative; share of labels that are flipped at random."""


def rows(quick: bool) -> list[Row]:
    return [*_detector_rows(quick), *_label_rows(quick), *_record_rows(quick)]


@dataclass
class Simulation:
    """Simulates days of decisions.

    `memory`: autocorrelation of the day effect. `small`: every ninth day has ten rows only."""

    random: np.random.Generator
    memory: float = 0.3
    storms: bool = True
    small: bool = False
    effect: float = 0.22
    _state: tuple[float, float] = (0.0, 0.0)
    _storm: int = 0

    def days(self, first: int, count: int, moved: float = 0.0, noise: float = 0.0) -> list[Cohort]:
        return [self._day(first + number, moved, noise) for number in range(count)]

    def _day(self, day: int, moved: float, noise: float) -> Cohort:
        random, fresh = self.random, np.sqrt(1 - self.memory**2)
        outcome_effect, delay_effect = (self.memory * old + fresh * random.normal() for old in self._state)
        self._state = (outcome_effect, delay_effect)
        if self.storms and not self._storm and random.random() < 0.04:
            self._storm = int(random.integers(1, 3))
        stormy, self._storm = self._storm > 0, max(self._storm - 1, 0)
        rows = 10 if self.small and day % 9 == 4 else A_DAY
        known = random.normal(-1.0, 0.85, rows)
        score = norm.cdf(known / np.sqrt(1 + self.effect**2))
        delay = known + self.effect * outcome_effect + (0.6 if stormy else 0.0) + random.normal(size=rows)
        estimate = norm.cdf((delay + 0.03 * delay_effect + random.normal(0, 0.12, rows)) / 0.125)
        label = (delay > self._threshold(moved)).astype(np.int64)
        label = np.where(random.random(rows) < noise, 1 - label, label)
        scored = ScoredRows.of("binary", label, score)
        residuals = label_residuals("binary", estimate, label)
        return Cohort(
            day=date(2024, 1, 1) + timedelta(days=day), decisions=rows, labelled=rows, loss=float(scored.loss.sum()),
            expected=float(scored.expected.sum()), variance=float(scored.variance.sum()),
            residual=float((scored.outcome - scored.score).sum()),
            excess_squares=float(((scored.loss - scored.expected) ** 2).sum()), bins=(),
            **residuals.sums(np.arange(rows)),
        )  # fmt: skip

    @staticmethod
    def _threshold(moved: float) -> float:
        """The threshold of the latent delay that makes the share `moved` of the positives negative."""
        spread = np.sqrt(1 + 0.85**2)
        positive = norm.sf(1 / spread)
        return float(spread * norm.isf(positive * (1 - moved)) - 1)


def critical_findings(reference: Sequence[Cohort], days: Sequence[Cohort]) -> list[tuple[int, str]]:
    """(day, cause) of every critical finding of the detectors, checked each day.

    Critical findings of the same cause within a week count once."""
    found = []
    for stream in _streams(reference, days):
        cause = "label rule" if stream.name in LABEL_STREAMS else "concept drift"
        found += [(shift.day, cause) for shift in stream.critical_shifts(threshold(QualityWatch(), 2))]
    return _without_repeats(found)


def label_findings(days: Sequence[Cohort], every: int) -> list[tuple[int, str]]:
    """Critical findings about labels after HELD_OUT days, with a promotion after each `every` days.

    A version's baseline is the HELD_OUT days before its promotion."""
    versions = [_streams(days[first - HELD_OUT : first], days[first : first + every])
                for first in range(HELD_OUT, len(days), every)]  # fmt: skip
    found = []
    for parts in zip(*versions, strict=True):
        joined = JoinedStream.of(parts) if parts[0].name in LABEL_STREAMS else None
        shifts = joined.critical_shifts(threshold(QualityWatch(), 2)) if joined else []
        found += [(shift.day, "label rule") for shift in shifts]
    return _without_repeats(found)


def _streams(reference: Sequence[Cohort], days: Sequence[Cohort]) -> list[Stream]:
    scale, loss = label_scale("binary", reference)
    return build_streams(reference, reference, days, QualityWatch(), scale, loss, 2)


def _without_repeats(found: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    kept: list[tuple[int, str]] = []
    for day, cause in sorted(found):
        if not any(cause == other and day - before < 7 for before, other in kept):
            kept.append((day, cause))
    return kept


def _detector_rows(quick: bool) -> Iterator[Row]:
    years, trials = (6, 10) if quick else (60, 100)
    for memory in (0.0, 0.4, 0.7):
        count = sum(len(clean(seed, memory)) for seed in range(years))
        yield Row(what=f"false critical findings in {years} clean years with storms, correlation {memory}",
                  value=count / years, unit="per year", limit=1)  # fmt: skip
    for what, cause, within, change in (
        ("a rule that makes a seventh of the positives negative", "label rule", 10, {"moved": MOVED}),
        ("label noise that raises the loss by a fifth", "concept drift", 15, {"noise": NOISE}),
    ):
        hits = [found(seed, cause, within, change) for seed in range(trials)]
        yield Row(what=f"{what}: found within {within} days, of {trials} simulations", value=100 * np.mean(hits),
                  unit="%", limit=80, sense="at least")  # fmt: skip
    yield from _promotion_rows(years, trials)
    named = sum(
        any(cause == "label rule" for _, cause in clean(seed, 0.3, small=True, days=60)) for seed in range(trials)
    )
    yield Row(what=f"label rule critical in 60 clean days with cohorts of ten rows, of {trials} simulations",
              value=100 * named / trials, unit="%", limit=100 * 60 / 365)  # fmt: skip


def _promotion_rows(years: int, trials: int) -> Iterator[Row]:
    """The detectors of the label rule, with a promotion every few days."""
    about = f"with a promotion every {PROMOTED} days"
    for memory in (0.0, 0.4, 0.7):
        count = sum(len(label_findings(simulate(seed, memory, YEAR), PROMOTED)) for seed in range(years))
        yield Row(what=f"false label rules in {years} clean years {about}, correlation {memory}", value=count / years,
                  unit="per year", limit=1)  # fmt: skip
    hits = sum(is_rule_found(seed, PROMOTED) for seed in range(trials))
    yield Row(what=f"a rule that makes a seventh of the positives negative, {about}: found within 10 days, of {trials} "
              "simulations", value=100 * hits / trials, unit="%", limit=80, sense="at least")  # fmt: skip


def simulate(seed: int, memory: float, days: int) -> list[Cohort]:
    """HELD_OUT clean days, and `days` more."""
    return Simulation(np.random.default_rng([seed, round(10 * memory)]), memory).days(0, HELD_OUT + days)


def is_rule_found(seed: int, every: int) -> bool:
    """Whether a rule that changes after 30 clean days is found within ten, with a promotion after each `every` days."""
    simulation = Simulation(np.random.default_rng([seed, 99]))
    days = [*simulation.days(0, HELD_OUT + 30), *simulation.days(HELD_OUT + 30, 10, moved=MOVED)]
    return any(day >= 30 for day, _ in label_findings(days, every))


def _label_rows(quick: bool) -> Iterator[Row]:
    """Missing labels: 300 decisions a day for four weeks with a base rate of 0.36.

    30% of the positives, or 30% of all decisions, never get a label."""
    problem, trials = load_problem(), 20 if quick else 500
    named, rates, false = 0, [], 0
    for seed in range(trials):
        days = labelled_days(lambda score, came: 1 - 0.3 * came, seed)
        named += bool(check_selection(problem, days))
        rates.append(sum(part[2] for one in days for part in one.bins) / sum(one.labelled for one in days))
        false += bool(check_selection(problem, labelled_days(lambda score, came: 0.7 + 0 * score, seed)))
    yield Row(what=f"selective labels named (base rate {np.mean(rates):.2f} instead of 0.36), of {trials} simulations",
              value=100 * named / trials, unit="%", limit=95, sense="at least")  # fmt: skip
    yield Row(what=f"selective labels named although labels are missing at random, of {trials} simulations",
              value=100 * false / trials, unit="%", limit=1)  # fmt: skip
    trials = 20 if quick else 120  # each with a check a day for three months
    for memory in (0.0, 0.4, 0.7):
        about = f"of {trials} simulations with cancelled decisions, correlation {memory:g}"
        permanent = sum(find_permanent_selection(problem, seed, memory) for seed in range(trials))
        yield Row(what=f"selective labels named in three months although selection is as before, {about}",
                  value=100 * permanent / trials, unit="%", limit=5)  # fmt: skip
        lost = sum(find_lost_positives(problem, seed, memory) for seed in range(trials))
        yield Row(what=f"selective labels named within 30 days of losing 30% of the positives, {about}",
                  value=100 * lost / trials, unit="%", limit=90, sense="at least")  # fmt: skip


def find_permanent_selection(problem: Problem, seed: int, memory: float = 0.4) -> bool:
    """Whether daily checks of three months name selection that the six weeks before had too."""
    return _is_selection_named(problem, cancelling_days(seed, HELD_OUT + 90, memory), HELD_OUT + 5)


def find_lost_positives(problem: Problem, seed: int, memory: float = 0.4) -> bool:
    """Whether daily checks name, within 30 days, that 30% of the positives get no label either since day HELD_OUT +
    30."""
    changed = HELD_OUT + 30
    days = cancelling_days(seed, changed + 30, memory, unlabelled=lambda day: 0.3 * (day >= changed))
    return _is_selection_named(problem, days, changed + 1)


def _is_selection_named(problem: Problem, days: Sequence[Cohort], first: int) -> bool:
    """Whether a daily check names selection, from the one with `first` days on."""
    windows = (days[max(HELD_OUT, last - 28) : last] for last in range(first, len(days) + 1))
    return any(check_selection(problem, window, reference=days[:HELD_OUT]) for window in windows)


def cancelling_days(
    seed: int, days: int, memory: float = 0.4, a_day: int = 300, unlabelled: Callable[[int], float] = lambda day: 0.0
) -> list[Cohort]:
    """Simulate days with a weather that raises both the scores and the share of cancelled decisions, which never get a
    label: of 100 decisions with high scores seven more than of those with low ones.

    `memory`: autocorrelation of the weather. `unlabelled`: the share of a day's positives that get no label either."""
    random, effect, found = np.random.default_rng(seed), 0.0, []
    for number in range(days):
        effect = memory * effect + np.sqrt(1 - memory**2) * random.standard_normal()
        odds = random.beta(1.0, 1.8, a_day)
        odds = odds / (1 - odds) * np.exp(0.7 * effect)
        score = odds / (1 + odds)
        came = (random.random(a_day) < score).astype(np.int64)
        cancelled = random.random(a_day) < np.minimum(0.06 * score * np.exp(0.7 * effect), 1)
        known = ~cancelled & ~((came == 1) & (random.random(a_day) < unlabelled(number)))
        found.append(_labelled_day(number, score, came, known))
    return found


def labelled_days(share: Callable[[Array, Array], Array], seed: int, days: int = 28, a_day: int = 300) -> list[Cohort]:
    """Simulate days of decisions; `share`: the probability of a label, given score and outcome."""
    random, found = np.random.default_rng(seed), []
    for number in range(days):
        score = random.beta(1.0, 1.8, a_day)
        came = (random.random(a_day) < score).astype(np.int64)
        known = random.random(a_day) < share(score, came)
        found.append(_labelled_day(number, score, came, known))
    return found


def _labelled_day(number: int, score: Array, came: Array, known: Array) -> Cohort:
    """The cohort of one day's decisions. `came`: the outcomes; `known`: which decisions have a label."""
    scored, edges = ScoredRows.of("binary", came[known], score[known]), np.linspace(0, 1, 41)[1:-1]
    return Cohort(
        day=date(2024, 1, 1) + timedelta(days=number), decisions=len(score), labelled=int(known.sum()),
        loss=float(scored.loss.sum()), expected=float(scored.expected.sum()),
        variance=float(scored.variance.sum()), residual=float((scored.outcome - scored.score).sum()),
        bins=sums_by_bin(edges, scored), decided=decisions_by_bin("binary", edges, score),
    )  # fmt: skip


def clean(seed: int, memory: float, small: bool = False, days: int = YEAR) -> list[tuple[int, str]]:
    simulation = Simulation(np.random.default_rng([seed, round(10 * memory)]), memory, small=small)
    return critical_findings(simulation.days(0, HELD_OUT), simulation.days(HELD_OUT, days))


def found(seed: int, cause: str, within: int, change: dict[str, float]) -> bool:
    """Whether a change is named within `within` days; it starts after 30 clean days."""
    simulation = Simulation(np.random.default_rng([seed, 99]))
    reference, clean = simulation.days(0, HELD_OUT), simulation.days(HELD_OUT, 30)
    named = critical_findings(reference, [*clean, *simulation.days(HELD_OUT + 30, within, **change)])
    return any(day >= 30 and other == cause for day, other in named)


@dataclass
class MemoryStore:
    """An object store in memory. `reads`: number of reads by operation."""

    root: str = "memory"
    contents: dict[str, bytes] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)

    def put(self, key: str, data: bytes) -> None:
        self.contents[key] = data

    def put_new(self, key: str, data: bytes) -> None:
        if key in self.contents:
            raise AlreadyExists("the object is there already", where=key)
        self.contents[key] = data

    def get(self, key: str) -> bytes:
        self.reads["get"] += 1
        if key not in self.contents:
            raise NotFound("no such object", where=key)
        return self.contents[key]

    def exists(self, key: str) -> bool:
        self.reads["exists"] += 1
        return key in self.contents

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        self.reads["list"] += 1
        yield from sorted(key for key in self.contents if key.startswith(prefix) and key > after)

    def objects(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        found = self.list(prefix, after)
        yield from (StoredObject(key, len(self.contents[key]), datetime.now(UTC)) for key in found)

    def delete(self, key: str) -> None:
        self.contents.pop(key, None)

    def upload(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def digest(self, key: str) -> str:
        return sha256(self.get(key))


def _record_rows(quick: bool) -> Iterator[Row]:
    problem, store = load_problem(), MemoryStore()
    down = Finding(check="endpoint", subject="local", cause="no answer", page=True, sentence="It does not answer.")
    days, figures = (3, 30) if quick else (17, 365), []
    at = START
    for until in days:
        while at < START + timedelta(days=until):
            often = [_report(problem.name, check, at, (down,) if check == "endpoint" else ()) for check in OFTEN]
            daily = [_report(problem.name, check, at) for check in DAILY] if at.hour == at.minute == 0 else []
            for one in often:
                report_store.refresh(store, one)
            for one in daily:
                report_store.save(store, one)
            update_alerts(store, problem, [*often, *daily], at)
            at += timedelta(minutes=5) if at < START + timedelta(days=days[0]) else timedelta(hours=1)
        if until == days[0]:
            kept = sum(key.startswith(f"alarms/{problem.name}/") for key in store.contents)
            yield Row(what=f"entries of an open alarm in {until} days", value=kept, unit="", limit=until / 3)
        store.reads.clear()
        started = time.perf_counter()
        control_page.page(store, problem, served=False, at=at)
        figures.append((sum(store.reads.values()), time.perf_counter() - started))
    (few, quick_page), (many, slow_page) = figures
    yield Row(what=f"reads of storage for a control page after {days[1]} days", value=many, unit="", reference=few,
              reference_is=f"after {days[0]} days", limit=1.1)  # fmt: skip
    yield Row(what="reads of storage for that page", value=many, unit="", limit=60)
    yield Row(
        what="time of the control page",
        value=slow_page,
        unit="s",
        reference=quick_page,
        reference_is=f"after {days[0]} days",
    )


def _report(problem: str, check: Check, at: datetime, findings: tuple[Finding, ...] = ()) -> Report:
    return Report(check=check, problem=problem, at=at, sentence="No findings.", findings=findings)
