"""What a version must show before it comes into office, as a problem declares it."""

from dataclasses import KW_ONLY
from datetime import timedelta

from pydantic.dataclasses import dataclass

from truecourse.schema import CONFIG, days


@dataclass(frozen=True, config=CONFIG)
class MetricGate:
    """A metric on the test rows must be within bounds."""

    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None


@dataclass(frozen=True, config=CONFIG)
class BeatsBaseline:
    """The loss on the test rows must be below that of the constant prediction, and the whole interval with it."""


@dataclass(frozen=True, config=CONFIG)
class BeatsChampion:
    """Better than the champion on the same rows, of closed cohorts, that neither trained on. It gives up to three
    verdicts, on paired differences with 95% intervals from whole days:

    - the loss: the whole interval lies below `margin`, in units of the loss. At 0 the version must be better; above 0
      it must only not be worse by more than that (non-inferiority: for a cheaper model, say, or a fresher one);
    - the calibration error (for a regression: the size of the bias) is not significantly above the champion's;
    - the loss on every slice of `Monitoring.slices` is not significantly above the champion's.
    """

    _: KW_ONLY
    margin: float = 0.0


@dataclass(frozen=True, config=CONFIG)
class SliceFloor:
    """On every slice of a request field with at least `rows` test rows, the metric keeps its bounds."""

    column: str
    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None
    rows: int = 200


Gate = MetricGate | BeatsBaseline | BeatsChampion | SliceFloor


@dataclass(frozen=True, config=CONFIG)
class Promotion:
    """What comes after open gates. `approval`: a person has to say yes, in the Prefect UI, within `patience`."""

    _: KW_ONLY
    approval: bool = False
    patience: timedelta = days(1)
