"""Monitoring settings of a problem: thresholds of findings, alerts and retraining."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, Many, days


@dataclass(frozen=True, config=CONFIG)
class Alerts:
    """When to notify about an alarm: when it opens, every `remind` while it is open, and when it recovers, after
    `clean` consecutive checks without it."""

    _: KW_ONLY
    remind: timedelta = days(7)
    clean: Annotated[int, Field(ge=1)] = 2


@dataclass(frozen=True, config=CONFIG)
class Retraining:
    """When findings trigger a retraining, and on which rows.

    `causes`: causes of findings that trigger it. `spoilers`: causes that block it while such a finding is open, because
    the model would learn the fault. `cooldown`: least time between two retrainings. `budget`: most retrainings within
    seven days (0: no automatic retraining).

    With a TimeSplit, the split moves with time: the last `test` of closed cohorts are the test set, `validate` before
    them is the validation set, and all earlier rows, or the last `history` of them, are the training set.
    `tune`: search the declared parameter space in each retraining.
    """

    _: KW_ONLY
    causes: Many[str] = ("concept drift", "miscalibration", "new category")
    spoilers: Many[str] = ("unit change", "dead feed", "label rule", "selective labels")
    cooldown: timedelta = days(7)
    budget: Annotated[int, Field(ge=0)] = 2
    validate: timedelta = days(28)
    test: timedelta = days(14)
    history: timedelta | None = None
    tune: bool = False


@dataclass(frozen=True, config=CONFIG)
class QualityWatch:
    """When a loss of quality is a finding, and when it is critical.

    `false_pages_a_year`: expected false critical alerts per year, over all daily tests together. A critical finding
    also needs one of these effect sizes:

    - `calibration`: calibration error, as a share of the labels' standard deviation around the predictions;
    - `loss`: loss above the loss expected from the scores, as a share of the held-out loss;
    - `labels_moved`: share of labels above or below the label model's prediction (regression: their distance, in
      standard deviations);
    - `labels_turned`: share of a class's labels that a changed label rule flipped (regression: how far labels moved).

    `coverage`: a cohort whose labelled share, relative to the usual one, is below this is a warning; below half of it,
    critical. `selective`: the critical difference in labelled share between the lowest and the highest third of
    scores. `window`: the range of closed cohorts for metrics.
    """

    _: KW_ONLY
    false_pages_a_year: Annotated[float, Field(gt=0)] = 1.0
    calibration: Annotated[float, Field(ge=0)] = 0.1
    loss: Annotated[float, Field(ge=0)] = 0.05
    labels_moved: Annotated[float, Field(ge=0, lt=1)] = 0.02
    labels_turned: Annotated[float, Field(ge=0, lt=1)] = 0.1
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.8
    selective: Annotated[float, Field(gt=0, le=1)] = 0.05
    window: timedelta = days(28)


@dataclass(frozen=True, config=CONFIG)
class Monitoring:
    """A feature or score has drifted if a permutation test rejects at `false_alarm_rate`, over all columns together,
    and its population stability index exceeds `psi`. Drift against the previous weeks, beyond the seasonal range, is
    critical. `window`: the range of latest data to check."""

    _: KW_ONLY
    window: timedelta = days(7)
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    psi: Annotated[float, Field(gt=0)] = 0.1
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    slices: Many[str] = ()
    """Request fields by which metrics are sliced."""
    quality: QualityWatch = QualityWatch()
    alerts: Alerts = Alerts()
    retraining: Retraining = Retraining()
    audit_rows: Annotated[int, Field(ge=1)] = 2000
    """Number of logged predictions of a window to recompute in the skew audit."""
    audit_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Differences in a smaller share of them are ignored."""
    audit_lag: timedelta = days(1)
    """How long a served feature value may have been outdated; if the online store is loaded daily, one day at most."""
