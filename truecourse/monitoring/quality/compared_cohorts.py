"""Metrics of a side of a comparison, the window's cohorts or the reference's, and of its slices.

The reference of a model version is the same in every check. Its metrics and intervals are computed once per process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from truecourse.arrays import Array
from truecourse.hashing import sha256
from truecourse.monitoring.quality.cohorts import COHORTS, Cohort, calibration_error, metrics, slice_cohorts, slice_sums
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import Estimate
from truecourse.statistics.metrics import summary, weightings


class ComparedCohorts:
    """Consecutive cohorts and figures of them, each computed once.

    `sums`: by column and value the slice's (cohorts, 3) sums of slice_sums(), the largest slice of a column first."""

    def __init__(self, kind: Kind, cohorts: Sequence[Cohort]) -> None:
        self._kind, self._cohorts = kind, cohorts
        self._weights = weightings(np.arange(len(cohorts)))
        self.sums = {(column, value): sums for column, value, sums in slice_sums(cohorts)}
        self._slices: dict[tuple[str, str], list[Cohort] | None] = {}
        self._metrics: dict[tuple[str, str], Mapping[str, Array]] = {}
        self._calibrations: dict[tuple[str, str, float], Estimate] = {}
        samples = metrics(kind, cohorts, self._weights)
        self.metrics = {name: summary(drawn, name) for name, drawn in samples.items()}
        if kind != "regression":
            self.metrics["calibration_error"] = calibration_error(cohorts)

    def loss(self, column: str, value: str) -> Array:
        """Compute samples of the slice's mean loss."""
        sums = self.sums[column, value]
        return np.asarray((self._weights @ sums[:, 2]) / (self._weights @ sums[:, 0]))

    def slice(self, column: str, value: str) -> list[Cohort] | None:
        """Return the cohorts restricted to the slice; see slice_cohorts()."""
        if (column, value) not in self._slices:
            self._slices[column, value] = slice_cohorts(self._cohorts, column, value)
        return self._slices[column, value]

    def slice_metrics(self, column: str, value: str) -> Mapping[str, Array]:
        """Compute samples of the slice's metrics."""
        if (column, value) not in self._metrics:
            cohorts = self.slice(column, value) or []
            self._metrics[column, value] = metrics(self._kind, cohorts, self._weights)
        return self._metrics[column, value]

    def slice_calibration(self, column: str, value: str, coverage: float) -> Estimate:
        """Estimate the slice's calibration error, with an interval of this coverage."""
        key = column, value, coverage
        if key not in self._calibrations:
            self._calibrations[key] = calibration_error(self.slice(column, value) or [], coverage)
        return self._calibrations[key]


@dataclass(frozen=True)
class _Reference:
    """The cohorts of a reference, identified by the SHA-256 of their content."""

    kind: Kind
    digest: str
    cohorts: Sequence[Cohort] = field(compare=False)


def reference_cohorts(kind: Kind, cohorts: Sequence[Cohort]) -> ComparedCohorts:
    """Return the figures of a reference; those of the last few references are kept."""
    return _compare(_Reference(kind, sha256(COHORTS.dump_json(list(cohorts))), cohorts))


@lru_cache(maxsize=4)
def _compare(reference: _Reference) -> ComparedCohorts:
    return ComparedCohorts(reference.kind, reference.cohorts)
