"""Monitoring settings of a problem: thresholds of findings, alerts and retraining."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.durations import days
from truecourse.problem.schema import CONFIG, Many
from truecourse.stored_format import renamed


@dataclass(frozen=True, config=CONFIG)
class Alerts:
    """When to notify about an alarm: when it opens, while it stays open, and when it recovers."""

    _: KW_ONLY
    remind: timedelta = days(7)
    """Time between two notifications about an open alarm. Example: `remind=days(1)`."""
    clean: Annotated[int, Field(ge=1)] = 2
    """Consecutive checks without the finding after which an alarm has recovered. Example: `clean=3`."""


@dataclass(frozen=True, config=CONFIG)
class Retraining:
    """When findings trigger a retraining, and on which rows.

    With a TimeSplit, the split moves with time. The last `test` of closed cohorts are the test set, and `validate`
    before them is the validation set. All earlier rows, or the last `history` of them, are the training set.
    """

    _: KW_ONLY
    causes: Many[str] = ("concept drift", "new category")
    """Causes of findings that trigger a retraining. Example: `causes=["concept drift", "drift"]`."""
    blockers: Annotated[Many[str], renamed("blockers")] = ("unit change", "dead feed", "label rule", "selective labels")
    """Causes that block it while such a finding is open, because the model would learn the fault. Example:
    `blockers=["unit change", "dead feed", "missing values"]`."""
    cooldown: timedelta = days(7)
    """Least time between two retrainings. Example: `cooldown=days(14)`."""
    budget: Annotated[int, Field(ge=0)] = 2
    """Most retrainings within seven days; 0 for no automatic retraining. Example: `budget=0`."""
    validate: timedelta = days(28)
    """Length of the moving validation set. Example: `validate=days(14)`."""
    test: timedelta = days(14)
    """Length of the moving test set. Example: `test=days(28)`."""
    history: timedelta | None = None
    """Length of the moving training set; None for all earlier rows. Example: `history=days(365)`."""
    tune: bool = False
    """Whether each retraining searches the declared parameter space. Example: `tune=True`."""


@dataclass(frozen=True, config=CONFIG)
class QualityWatch:
    """When a loss of quality is a finding, and when it is critical.

    A critical finding needs significance and one of the effect sizes `calibration`, `loss`, `labels_moved` and
    `labels_turned`.
    """

    _: KW_ONLY
    false_pages_a_year: Annotated[float, Field(gt=0)] = 1.0
    """Expected false critical alerts per year, over all daily tests together. Example: `false_pages_a_year=0.5`."""
    calibration: Annotated[float, Field(ge=0)] = 0.1
    """Least calibration error, as a share of the labels' standard deviation around the predictions. Example:
    `calibration=0.2`."""
    loss: Annotated[float, Field(ge=0)] = 0.05
    """Least loss above the loss expected from the scores, as a share of the held-out loss. Example: `loss=0.1`."""
    labels_moved: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Least share of labels above or below the label model's prediction. For a regression: their distance, in standard
    deviations. Example: `labels_moved=0.05`."""
    labels_turned: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Least share of a class's labels that a changed label rule flipped. For a regression: how far labels moved.
    Example: `labels_turned=0.2`."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.8
    """A cohort's labelled share, relative to the usual one, below which there is a warning; below half of it the
    finding is critical. Example: `coverage=0.9`."""
    selective: Annotated[float, Field(gt=0, le=1)] = 0.05
    """The critical change of the difference in labelled share between the lowest and the highest third of scores.
    Example: `selective=0.1`."""
    window: timedelta = days(28)
    """The range of closed cohorts for metrics. Example: `window=days(14)`."""


@dataclass(frozen=True, config=CONFIG)
class Monitoring:
    """Thresholds of the checks.

    A feature or score has drifted if a permutation test over all columns together rejects at `false_alarm_rate`. Its
    population stability index must also exceed `psi`. Drift against the previous weeks, beyond the seasonal range, is
    critical."""

    _: KW_ONLY
    window: timedelta = days(7)
    """The range of latest data to check. Example: `window=days(14)`."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The probability that a drift check without drift has a finding. Example: `false_alarm_rate=0.01`."""
    psi: Annotated[float, Field(gt=0)] = 0.1
    """The population stability index that a drifted column exceeds. Example: `psi=0.2`."""
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Number of bins of a numeric column's histogram. Example: `bins=20`."""
    slices: Many[str] = ()
    """Request fields by which metrics are sliced. Example: `slices=["depot"]`."""
    quality: QualityWatch = QualityWatch()
    """Thresholds of the quality check. Example: `quality=QualityWatch(loss=0.1)`."""
    alerts: Alerts = Alerts()
    """When to notify. Example: `alerts=Alerts(remind=days(1))`."""
    retraining: Retraining = Retraining()
    """When to retrain. Example: `retraining=Retraining(budget=0)`."""
    audit_rows: Annotated[int, Field(ge=1)] = 2000
    """Number of logged predictions of a window to recompute in the skew audit. Example: `audit_rows=500`."""
    audit_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Differences in a smaller share of them are ignored. Example: `audit_share=0.001`."""
    audit_lag: timedelta = days(1)
    """How long a served feature value may have been outdated; if the online store is loaded daily, one day at most.
    Example: `audit_lag=hours(2)`."""
