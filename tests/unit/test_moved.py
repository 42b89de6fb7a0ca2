"""What moved is excused by last year's season only where it was the same then."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from truecourse.monitoring.bins import Counts, learn
from truecourse.monitoring.frozen import Side
from truecourse.monitoring.moved import compared, findings
from truecourse.problem import Boolean, Files, Label, Problem, Table, Text

A_DAY = 100
PROBLEM = Problem(
    "plain",
    kind="binary",
    tables=[Table("rows", source=Files("rows.csv"), columns={"sky": Text(), "y": Boolean()})],
    label=Label(column="y"),
)
BINS = learn(pa.table({"sky": ["clear", "grey"] * 50}), ["sky"])


def side(first: str, clear: Sequence[float]) -> Side:
    """Days from `first` on, with these shares of clear skies."""
    frames = [["clear"] * round(share * A_DAY) + ["grey"] * round((1 - share) * A_DAY) for share in clear]
    rows = pa.table({"sky": [sky for day in frames for sky in day]})
    counts = Counts.of(BINS, rows, np.repeat(np.arange(len(clear)), A_DAY))
    return Side(BINS, np.datetime64(first, "D") + np.arange(len(clear)), counts)


SPRING = side("2013-03-01", [0.5, 0.52, 0.48, 0.5] * 15)
NOW = side("2014-01-01", [0.9, 0.88, 0.92, 0.9, 0.89, 0.91, 0.9])


@pytest.mark.parametrize(
    ("then", "excused"),
    [([0.9, 0.89, 0.91, 0.9] * 3, True), ([0.5, 0.51, 0.49, 0.5] * 3, False), ([1.0, 0.0, 1.0, 0.9] * 3, False)],
    ids=["as now", "as ever", "too wild to tell"],
)
def test_a_season_that_was_the_same_is_told(then: list[float], excused: bool) -> None:
    season = side("2013-01-01", then)
    (found,) = findings(compared(PROBLEM, NOW, SPRING, side("2013-12-04", [0.9] * 28), season, SPRING), "drift")
    assert not found.page
    assert ("same season a year before" in found.sentence) == excused


def test_a_move_further_than_ever_against_the_weeks_before_wakes_somebody() -> None:
    steady = side("2013-12-04", [0.5, 0.52, 0.48, 0.5] * 7)
    (found,) = findings(compared(PROBLEM, NOW, SPRING, steady, None, SPRING), "drift")
    assert found.page
    assert "further than it ever did" in found.sentence
    wild = side("2013-03-01", [0.1] * 40 + [0.9] * 20)
    (known,) = findings(compared(PROBLEM, NOW, SPRING, steady, None, wild), "drift")
    assert not known.page
