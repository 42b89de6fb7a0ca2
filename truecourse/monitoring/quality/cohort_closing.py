"""Closing cohorts: each day's predictions are joined with their labels once these are complete, counted, and kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from truecourse.arrays import Array, columns_of
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import NotFound
from truecourse.monitoring.predictions.effective import ServedPredictions, output_of, read_served
from truecourse.monitoring.predictions.labels import known_labels, label_delay_hours
from truecourse.monitoring.quality.baseline import QualityBaseline, baseline_prefix, daily_cohorts
from truecourse.monitoring.quality.cohorts import Cohort, closing_time, decisions_by_bin
from truecourse.monitoring.quality.label_model import LabelResiduals
from truecourse.monitoring.quality.loss_estimate import estimate_loss
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.references import ModelVersion, Window
from truecourse.storage.tables import Tables

HORIZON = timedelta(days=92)
"""How far back predictions are looked for that were not counted yet."""
_GRACE = timedelta(days=14)
"""For so long after it closed a cohort with too few labels waits for the others: those that come first are biased."""
_DAY = timedelta(days=1)
COHORTS = TypeAdapter(list[Cohort])
"""A year of them is read and written each day, in a tenth of the time that json takes."""


@dataclass(frozen=True)
class CohortClosing:
    """A version's cohorts as they are known at a moment, naive UTC."""

    problem: Problem
    tables: Tables
    version: ModelVersion
    yardstick: QualityBaseline
    at: datetime

    def look(self) -> tuple[list[Cohort], list[Cohort]]:
        """The version's closed cohorts, oldest first, of which new ones are counted and kept; and its open ones, of
        which nothing is known but how many decisions they have and the estimate of their loss."""
        everything = self._kept()
        # A check of an earlier moment counts for itself.
        kept = {day: one for day, one in everything.items() if one.counted and one.counted <= self._moment}
        last = (self.at - _DAY - self.problem.label.closes_after).date()
        first = max(self.yardstick.learned, (self.at - HORIZON).date()) + _DAY
        due = [day for day in _days(first, last) if day not in kept or not self._is_final(kept[day])]
        waiting = _days(max(first, last + _DAY), self.at.date())
        said = read_served(self.problem, self.tables, self.version.version, due, self._moment, outputs=waiting)
        new = self._counted(due, said)
        if new:
            self._keep(everything | new)
        closed = [one for day, one in sorted((kept | new).items()) if day <= last]
        return closed, [self._unlabelled(day, part, said) for day, part in _parts(said.rows) if day > last]

    def _is_final(self, cohort: Cohort) -> bool:
        """Whether nothing is left to count: a day is counted when it closes and, with what was corrected since, when no
        labels are waited for any more."""
        assert cohort.counted is not None
        if not self._waited(cohort.day):
            return self.scored(cohort)
        return cohort.counted.replace(tzinfo=None) >= closing_time(cohort.day, self.problem.label.closes_after) + _GRACE

    def scored(self, cohort: Cohort) -> bool:
        """Whether it has about as many labels as usual, or no more are waited for."""
        return self._enough(cohort.labelled, cohort.decisions - cohort.nameless) or self._waited(cohort.day)

    def _enough(self, labelled: int, decisions: int) -> bool:
        return labelled >= self.problem.monitoring.quality.coverage * self.yardstick.coverage * decisions

    def _waited(self, day: date) -> bool:
        return closing_time(day, self.problem.label.closes_after) + _GRACE <= self.at

    def _kept(self) -> dict[date, Cohort]:
        try:
            told = self.tables.store.get(f"{baseline_prefix(self.version)}/days.json")
        except NotFound:
            return {}
        return {one.day: one for one in COHORTS.validate_json(told)}

    def _keep(self, cohorts: dict[date, Cohort]) -> None:
        told = [one for _, one in sorted(cohorts.items())]
        self.tables.store.put(f"{baseline_prefix(self.version)}/days.json", COHORTS.dump_json(told))

    @property
    def _moment(self) -> datetime:
        return self.at.replace(tzinfo=UTC)

    def _counted(self, days: Sequence[date], said: ServedPredictions) -> dict[date, Cohort]:
        if not days:
            return {}
        window = Window(start=midnight(days[0]), end=midnight(days[-1]) + _DAY)
        rows = said.rows.filter(pc.less(said.rows["decision_time"], pa.scalar(window.end, UTC_TIME)))
        labels = known_labels(self.problem, self.tables, rows["id"], window, self._moment)
        joined = pl.DataFrame(rows).join(pl.DataFrame(labels), on="id", how="left", maintain_order="left")
        parts = _parts(joined.to_arrow(compat_level=pl.CompatLevel.oldest()))
        return {day: self._summed(day, part, said) for day, part in parts}

    def _unlabelled(self, day: date, rows: pa.Table, said: ServedPredictions) -> Cohort:
        nameless, measure = said.without_id.get(day, 0), self.yardstick
        output = output_of(rows, measure.model.vocabulary)
        return Cohort(
            day=day, counted=self._moment, decisions=len(rows) + nameless, nameless=nameless,
            labelled=0, loss=0, expected=0, variance=0, residual=0, bins=((0, 0.0, 0.0),) * (len(measure.edges) + 1),
            estimate=estimate_loss(self.problem, measure, day, output),
            decided=decisions_by_bin(self.problem.kind, measure.edges, output),
        )  # fmt: skip

    def _summed(self, day: date, rows: pa.Table, said: ServedPredictions) -> Cohort:
        empty, labelled, measure = self._unlabelled(day, rows, said), self._labelled(day, rows), self.yardstick
        if not len(labelled):
            return empty
        labels, output = measure.model.vocabulary.labels(labelled), output_of(labelled, measure.model.vocabulary)
        told = self._hindsight(labelled, labels)
        (sums,) = daily_cohorts(self.problem, labelled, labels, output, measure.edges, told)
        lag: tuple[float, ...] = ()
        if "known_at" in labelled.column_names:
            lag = tuple(float(q) for q in np.quantile(label_delay_hours(labelled).to_numpy(), [0.25, 0.5, 0.75]))
        own = {name: getattr(empty, name) for name in ("counted", "decisions", "nameless", "estimate", "decided")}
        corrected = int(pc.sum(labelled["corrected"]).as_py() or 0)
        return sums.model_copy(update=own | {"lag": lag, "corrected": corrected})

    def _labelled(self, day: date, rows: pa.Table) -> pa.Table:
        """With the labels that were known when it closed; where those are too few, with all there are by now."""
        labelled = rows.filter(pc.is_valid(rows["label"]))
        if "known_at" not in rows.column_names:
            return labelled
        closed = closing_time(day, self.problem.label.closes_after).replace(tzinfo=UTC)
        in_time = labelled.filter(pc.less_equal(labelled["known_at"], pa.scalar(closed, UTC_TIME)))
        return in_time if self._enough(len(in_time), len(rows)) else labelled

    def _hindsight(self, rows: pa.Table, labels: Array) -> LabelResiduals | None:
        hindsight, vocabulary = self.yardstick.hindsight, self.yardstick.model.vocabulary
        if hindsight is None or not all(name in rows.column_names for name in vocabulary.features):
            return None
        matrix = vocabulary.encode(columns_of(rows, vocabulary.features))
        return hindsight.contradicted(self.problem.kind, matrix, rows, labels)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _parts(rows: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each UTC day that has any."""
    days = rows["decision_time"].cast(pa.timestamp("us")).cast(pa.date32())
    for day in pc.unique(days).sort().to_pylist():
        yield day, rows.filter(pc.equal(days, day))
