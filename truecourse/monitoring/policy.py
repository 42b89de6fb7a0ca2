"""What is done about findings, as a problem declares it: who is told and when, and when a model is trained anew."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.schema import CONFIG, Many, days


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

    `causes`: of findings that newer data cures. `spoilers`: causes that would be learned with the data: while such a
    finding is open, nothing is trained. At most one training every `cooldown`, and `budget` of them within seven days
    (0: never by itself).

    Where rows are split by time, the split moves with the moment: the last `test` of closed cohorts judge the model,
    `validate` before them chooses it, and all that came earlier trains it, or the last `history` of that.
    `tune`: search the declared parameter space each time.
    """

    _: KW_ONLY
    causes: Many[str] = ("concept drift", "miscalibration", "new category")
    spoilers: Many[str] = ("unit change", "dead feed", "label rule")
    cooldown: timedelta = days(7)
    budget: Annotated[int, Field(ge=0)] = 2
    validate: timedelta = days(28)
    test: timedelta = days(14)
    history: timedelta | None = None
    tune: bool = False
