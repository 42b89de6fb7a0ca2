"""However often one looks: false alarms stay below what was allowed, and a shift is found soon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.encoding import Array
from truecourse.monitoring.sequential import Usual, e_detector, e_values

DAYS, TRIALS, RATE = 100, 2000, 0.05


def fired(z: Array, most: float) -> Array:
    """(trials,) whether the detector that is looked at on each day ever reached its threshold."""
    return np.array([(e_detector(one, most) >= DAYS / RATE).any() for one in z])


@pytest.mark.parametrize("most", [2.5, 5.0])
def test_a_season_of_daily_looks_alarms_falsely_no_more_often_than_allowed(most: float) -> None:
    z = np.random.default_rng(1).normal(size=(TRIALS, DAYS))
    share = fired(z, most).mean()
    assert share <= RATE + 2 * np.sqrt(RATE * (1 - RATE) / TRIALS)
    naive = (z > 1.645).any(axis=1).mean()  # a test at 5%, made again each day
    assert naive > 0.99


@pytest.mark.parametrize(("shift", "within"), [(1.0, 25), (2.0, 9), (4.0, 4)])
def test_a_shift_is_found(shift: float, within: int) -> None:
    z = np.random.default_rng(2).normal(size=(300, 60)) + np.where(np.arange(60) >= 60 - within, shift, 0)
    assert fired(z, 5.0).mean() > 0.8


def test_one_wild_day_is_no_shift() -> None:
    quiet = np.zeros(30)
    quiet[20] = 50.0
    assert not fired(quiet[None], 2.5)[0]
    quiet[20:25] = 50.0
    assert fired(quiet[None], 2.5)[0]


@given(shift=st.floats(-3, 0), most=st.floats(1, 8), seed=st.integers(0, 99))
def test_an_e_value_has_a_mean_of_at_most_one(shift: float, most: float, seed: int) -> None:
    z = np.random.default_rng(seed).normal(shift, 1, 20_000)
    values = np.minimum(e_values(z, most), 50)  # the mean of the largest shift's is carried by a few draws
    assert (values.mean(axis=1) <= 1 + 4 * values.std(axis=1) / np.sqrt(len(z))).all()


def test_what_lasts_from_day_to_day_is_no_news() -> None:
    random, off = np.random.default_rng(3), [0.0]
    for noise in random.normal(size=4000):
        off.append(0.7 * off[-1] + noise)
    usual = Usual.of(np.array(off))
    assert usual is not None
    assert usual.memory == pytest.approx(0.7, abs=0.05)
    z = usual.standardised(np.array(off), usual.mean)
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 0.05
    assert z.std() == pytest.approx(1, abs=0.1)


def test_few_days_tell_nothing() -> None:
    assert Usual.of(np.arange(6.0)) is None
