"""Cohort closing: join each day's predictions with their labels once these are complete, and store their sums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import NotFound
from truecourse.monitoring.predictions.labels import label_delay_hours, read_known_labels
from truecourse.monitoring.predictions.served_predictions import ServedPredictions, output_of, read_served
from truecourse.monitoring.quality.baseline import QualityBaseline, baseline_prefix, daily_cohorts
from truecourse.monitoring.quality.cohorts import COHORTS, Cohort, ScoredRows, bin_index, closing_time, decisions_by_bin
from truecourse.monitoring.quality.label_model import LabelResiduals
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.references import ModelVersion, Window
from truecourse.statistics.metrics import losses
from truecourse.storage.delta_tables import Tables

HORIZON = timedelta(days=92)
"""How far back predictions that are not counted yet are searched."""
_GRACE = timedelta(days=14)
"""How long a closed cohort with too few labels waits for more: the labels that come first are biased."""
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class CohortClosing:
    """The closed and open cohorts of a model version, as known at `at` (naive UTC)."""

    problem: Problem
    tables: Tables
    version: ModelVersion
    baseline: QualityBaseline
    at: datetime

    def cohorts(self) -> tuple[list[Cohort], list[Cohort]]:
        """Return the closed and the open cohorts, oldest first; sum and store those that closed since the last call.

        An open cohort has the number of its decisions and an estimate of their loss, and no other figure."""
        everything = self._load()
        kept, due, last = self._due(everything)
        waiting = _date_range(max(self._first, last + _DAY), self.at.date())
        served = read_served(self.problem, self.tables, self.version.version, due, self._moment, outputs=waiting)
        new = self._count(due, served)
        if new:
            self._store(everything | new)
        closed = [one for day, one in sorted((kept | new).items()) if day <= last]
        return closed, [self._open_cohort(day, part, served) for day, part in _rows_by_day(served.rows) if day > last]

    def close(self, before: datetime) -> None:
        """Sum and store the cohorts that closed since the last call and end by `before` (naive UTC).

        cohorts() then reads their sums."""
        everything = self._load()
        self._add(everything, [day for day in self._due(everything)[1] if midnight(day) + _DAY <= before])

    def scored_cohorts(self) -> list[Cohort]:
        """Return the closed cohorts whose labels suffice, oldest first, as cohorts() counts them.

        Open cohorts are not read."""
        everything = self._load()
        kept, due, last = self._due(everything)
        closed = (one for day, one in sorted((kept | self._add(everything, due)).items()) if day <= last)
        return [one for one in closed if one.labelled and self.is_scorable(one)]

    def _add(self, everything: dict[date, Cohort], days: Sequence[date]) -> dict[date, Cohort]:
        """Sum the cohorts of these days, and store them with the others; returns the new ones."""
        if not days:
            return {}
        new = self._count(days, read_served(self.problem, self.tables, self.version.version, days, self._moment))
        if new:
            self._store(everything | new)
        return new

    def _due(self, everything: dict[date, Cohort]) -> tuple[dict[date, Cohort], list[date], date]:
        """Return the stored cohorts that count, the closed days to count, and the last closed day."""
        # A check as of an earlier moment ignores what later checks stored.
        kept = {day: one for day, one in everything.items() if one.counted and one.counted <= self._moment}
        last = (self.at - _DAY - self.problem.label.closes_after).date()
        due = [day for day in _date_range(self._first, last) if day not in kept or not self._is_final(kept[day])]
        return kept, due, last

    @property
    def _first(self) -> date:
        return max(self.baseline.learned_until, (self.at - HORIZON).date()) + _DAY

    def _is_final(self, cohort: Cohort) -> bool:
        """Whether the stored cohort needs no new count.

        A day is counted when it closes, and again, with the corrections since then, when its grace period ends."""
        assert cohort.counted is not None
        if not self._is_grace_over(cohort.day):
            return self.is_scorable(cohort)
        return cohort.counted.replace(tzinfo=None) >= closing_time(cohort.day, self.problem.label.closes_after) + _GRACE

    def is_scorable(self, cohort: Cohort) -> bool:
        """Whether the cohort has about as many labels as usual, or its grace period is over."""
        enough = self._has_enough_labels(cohort.labelled, cohort.decisions - cohort.without_id)
        return enough or self._is_grace_over(cohort.day)

    def _has_enough_labels(self, labelled: int, decisions: int) -> bool:
        return labelled >= self.problem.monitoring.quality.coverage * self.baseline.coverage * decisions

    def _is_grace_over(self, day: date) -> bool:
        return closing_time(day, self.problem.label.closes_after) + _GRACE <= self.at

    def _load(self) -> dict[date, Cohort]:
        try:
            document = self.tables.store.get(f"{baseline_prefix(self.version)}/days.json")
        except NotFound:
            return {}
        return {one.day: one for one in COHORTS.validate_json(document)}

    def _store(self, cohorts: dict[date, Cohort]) -> None:
        rows = [one for _, one in sorted(cohorts.items())]
        self.tables.store.put(f"{baseline_prefix(self.version)}/days.json", COHORTS.dump_json(rows))

    @property
    def _moment(self) -> datetime:
        return self.at.replace(tzinfo=UTC)

    def _count(self, days: Sequence[date], served: ServedPredictions) -> dict[date, Cohort]:
        if not days:
            return {}
        end = midnight(days[-1]) + _DAY
        rows = served.rows.filter(pc.less(served.rows["decision_time"], pa.scalar(end, UTC_TIME)))
        if not len(rows):
            return {}
        first = pc.min(rows["decision_time"]).as_py().date()
        window = Window(start=midnight(first), end=end)
        labels = read_known_labels(self.problem, self.tables, rows["id"], window, self._moment)
        joined = pl.DataFrame(rows).join(pl.DataFrame(labels), on="id", how="left", maintain_order="left")
        parts = _rows_by_day(joined.to_arrow(compat_level=pl.CompatLevel.oldest()))
        return {day: self._closed_cohort(day, part, served) for day, part in parts}

    def _open_cohort(self, day: date, rows: pa.Table, served: ServedPredictions) -> Cohort:
        without_id, baseline = served.without_id.get(day, 0), self.baseline
        output = output_of(rows, baseline.model.vocabulary)
        return Cohort(
            day=day, counted=self._moment, decisions=len(rows) + without_id, without_id=without_id,
            labelled=0, loss=0, expected=0, variance=0, residual=0, bins=((0, 0.0, 0.0),) * (len(baseline.edges) + 1),
            estimate=estimate_loss(self.problem, baseline, day, output),
            decided=decisions_by_bin(self.problem.kind, baseline.edges, output),
        )  # fmt: skip

    def _closed_cohort(self, day: date, rows: pa.Table, served: ServedPredictions) -> Cohort:
        empty, labelled, baseline = self._open_cohort(day, rows, served), self._labelled(day, rows), self.baseline
        if not len(labelled):
            return empty
        labels, output = baseline.model.vocabulary.labels(labelled), output_of(labelled, baseline.model.vocabulary)
        residuals = self._residuals(labelled, labels)
        (sums,) = daily_cohorts(self.problem, baseline.model, labelled, labels, output, baseline.edges, residuals)
        lag: tuple[float, ...] = ()
        if "known_at" in labelled.column_names:
            lag = tuple(float(q) for q in np.quantile(label_delay_hours(labelled).to_numpy(), [0.25, 0.5, 0.75]))
        own = {name: getattr(empty, name) for name in ("counted", "decisions", "without_id", "estimate", "decided")}
        corrected = int(pc.sum(labelled["corrected"]).as_py() or 0)
        return sums.model_copy(update=own | {"lag": lag, "corrected": corrected})

    def _labelled(self, day: date, rows: pa.Table) -> pa.Table:
        """Return the rows whose label was known when the day closed; if those are too few, all that have one now."""
        labelled = rows.filter(pc.is_valid(rows["label"]))
        if "known_at" not in rows.column_names:
            return labelled
        closed = closing_time(day, self.problem.label.closes_after).replace(tzinfo=UTC)
        in_time = labelled.filter(pc.less_equal(labelled["known_at"], pa.scalar(closed, UTC_TIME)))
        return in_time if self._has_enough_labels(len(in_time), len(rows)) else labelled

    def _residuals(self, rows: pa.Table, labels: Array) -> LabelResiduals | None:
        label_model, vocabulary = self.baseline.label_model, self.baseline.model.vocabulary
        if label_model is None or not all(name in rows.column_names for name in vocabulary.features):
            return None
        matrix = vocabulary.encode(columns_of(rows, vocabulary.features))
        return label_model.residuals(self.problem.kind, matrix, rows, labels)


def _date_range(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _rows_by_day(rows: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """Yield each UTC day that has rows, with its rows."""
    days = rows["decision_time"].cast(pa.timestamp("us")).cast(pa.date32())
    for day in pc.unique(days).sort().to_pylist():
        yield day, rows.filter(pc.equal(days, day))


def estimate_loss(problem: Problem, baseline: QualityBaseline, day: date, output: Array) -> float | None:
    """Estimate the mean log loss of a day's decisions, assuming that outcomes follow scores as in the baseline.

    Only baseline days that were closed at the end of the day are used, and no label of the day itself, so the estimate
    is the same before and after its labels are known.

    Binary: the expected loss under the outcome rate of each score's bin (histogram binning, Zadrozny & Elkan 2001).
    Multiclass: the loss that the scores expect, plus the baseline's loss in excess of that expectation. None for a
    regression, whose predictions carry no estimate of their error."""
    kind, (days, _) = problem.kind, baseline.reference(problem, day, midnight(day) + timedelta(days=1))
    if kind == "regression" or not len(output) or not days:
        return None
    scored = ScoredRows.of(kind, np.zeros(len(output), dtype=np.int64), output)
    if kind == "multiclass":
        beyond = sum(one.loss - one.expected for one in days) / sum(one.labelled for one in days)
        return float(scored.expected.mean() + beyond)
    sums = np.array([one.bins for one in days]).sum(axis=0)
    chance = ((sums[:, 2] + 0.5) / (sums[:, 0] + 1))[bin_index(baseline.edges, scored.score)]
    ones, zeros = (losses(kind, np.full(len(output), label), output) for label in (1, 0))
    return float((chance * ones + (1 - chance) * zeros).mean())
