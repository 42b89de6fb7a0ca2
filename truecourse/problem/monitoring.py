"""Monitoring as a problem declares it: what is a finding, who is told and when, and when a model is retrained."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, Many, days


@dataclass(frozen=True, config=CONFIG)
class Alerts:
    """An alarm is told once when it opens, again every `remind` while it stays open, and once when it has recovered:
    after `clean` checks in a row that no longer find it."""

    _: KW_ONLY
    remind: timedelta = days(7)
    clean: Annotated[int, Field(ge=1)] = 2


@dataclass(frozen=True, config=CONFIG)
class Retraining:
    """When findings start a training, and on which rows.

    `causes`: of findings that newer data fixes. `spoilers`: causes that would be learned with the data: while such a
    finding is open, nothing is trained. At most one training every `cooldown`, and `budget` of them within seven days
    (0: never by itself).

    Where rows are split by time, the split moves with the moment: the last `test` of closed cohorts judge the model,
    `validate` before them chooses it, and all that came earlier trains it, or the last `history` of that.
    `tune`: search the declared parameter space each time.
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
    """When a loss of quality is worth a report, and when somebody is told at once.

    `false_pages_a_year`: of all that is watched day by day together, while nothing has changed. A page also needs a
    practical size: predictions off by `calibration`, as a share of the labels' standard deviation around them; a loss
    above what the scores themselves expect by `loss`, as a share of the held-out loss; or `labels_moved`, the share of
    labels that lie above or below what is known of their rows (a regression: their distance, in standard deviations),
    or `labels_turned`, the share of a class's labels that another rule turned (a regression: how far labels moved).
    `coverage`: a cohort of which a smaller share of the usual has labels is told of, of half that share paged.
    `selective`: by how much the labelled share of the third of decisions with the lowest scores and that of the highest
    differ, that pages. `window`: the closed cohorts that metrics are of.
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
    """A feature or score has drifted when the permutation test rejects at `false_alarm_rate` over all columns together
    and its PSI exceeds `psi`; against the weeks before, beyond the usual swings, that pages. `window`: how much of the
    latest data is checked."""

    _: KW_ONLY
    window: timedelta = days(7)
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    psi: Annotated[float, Field(gt=0)] = 0.1
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    slices: Many[str] = ()
    """Request fields that metrics are broken down by."""
    quality: QualityWatch = QualityWatch()
    alerts: Alerts = Alerts()
    retraining: Retraining = Retraining()
    audit_rows: Annotated[int, Field(ge=1)] = 2000
    """How many logged predictions of a window are computed again."""
    audit_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A difference in a smaller share of them is of no weight."""
    audit_lag: timedelta = days(1)
    """For how long a served value may have been replaced by a newer one: where the online store is loaded every day,
    a day at most."""
