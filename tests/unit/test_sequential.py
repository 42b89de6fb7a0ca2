"""Sequential detection: the false-alarm rate holds however often one checks, and a shift is found soon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.arrays import Array
from truecourse.monitoring.quality.e_detector import DailyVariation, Series, e_detector, e_values, mean_e_values

DAYS, TRIALS, RATE = 100, 2000, 0.05


def ever_alarms(z: Array, most: float) -> Array:
    """(trials,) whether a detector that is checked every day ever reached its threshold."""
    return np.array([(e_detector(one, most) >= DAYS / RATE).any() for one in z])


@pytest.mark.parametrize("most", [2.5, 5.0])
def test_the_false_alarm_rate_of_daily_checks_holds(most: float) -> None:
    z = np.random.default_rng(1).normal(size=(TRIALS, DAYS))
    share = ever_alarms(z, most).mean()
    assert share <= RATE + 2 * np.sqrt(RATE * (1 - RATE) / TRIALS)
    naive = (z > 1.645).any(axis=1).mean()  # a test at 5%, made again each day
    assert naive > 0.99


@pytest.mark.parametrize(("shift", "within"), [(1.0, 25), (2.0, 9), (4.0, 4)])
def test_a_shift_is_found(shift: float, within: int) -> None:
    z = np.random.default_rng(2).normal(size=(300, 60)) + np.where(np.arange(60) >= 60 - within, shift, 0)
    assert ever_alarms(z, 5.0).mean() > 0.8


def test_a_single_outlier_day_is_no_shift() -> None:
    quiet = np.zeros(30)
    quiet[20] = 50.0
    assert not ever_alarms(quiet[None], 2.5)[0]
    quiet[20:25] = 50.0
    assert ever_alarms(quiet[None], 2.5)[0]


@given(shift=st.floats(-3, 0), most=st.floats(1, 8), seed=st.integers(0, 99))
def test_an_e_value_has_a_mean_of_at_most_one(shift: float, most: float, seed: int) -> None:
    z = np.random.default_rng(seed).normal(shift, 1, 20_000)
    values = np.minimum(e_values(z, most), 50)  # the mean of the largest shift's is carried by a few draws
    assert (values.mean(axis=1) <= 1 + 4 * values.std(axis=1) / np.sqrt(len(z))).all()


def series(values: Array, noise: float = 0.0, every: int = 1) -> Series:
    return Series(every * np.arange(len(values), dtype=np.float64), values, np.full(len(values), noise))


def persistent_series(memory: float, n: int, seed: int = 3) -> Array:
    """An AR(1) process with innovations of 1."""
    random, off = np.random.default_rng(seed), [0.0]
    for noise in random.normal(size=n):
        off.append(memory * off[-1] + noise)
    return np.array(off)


def test_autocorrelation_adds_no_evidence() -> None:
    off = series(persistent_series(0.7, 4000))
    usual = DailyVariation.of(off)
    assert usual is not None
    assert usual.memory == pytest.approx(0.7, abs=0.05)
    assert usual.spread == pytest.approx(1 / np.sqrt(1 - 0.7**2), abs=0.1)
    z = usual.standardised(off, usual.mean)
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 0.05
    assert z.std() == pytest.approx(1, abs=0.1)


def test_distant_days_are_independent() -> None:
    usual = DailyVariation.of(series(persistent_series(0.7, 400)))
    assert usual is not None
    pair = usual.standardised(Series(np.array([0.0, 1.0, 31.0]), np.array([3.0, 3.0, 3.0]), np.zeros(3)), 0.0)
    assert pair[1] < 0.5 * pair[0]
    assert pair[2] == pytest.approx(pair[0], rel=0.01)


def test_a_storm_does_not_widen_the_scale_and_heavy_tails_reduce_evidence() -> None:
    values = np.random.default_rng(4).normal(size=400)
    calm = DailyVariation.of(series(values))
    values[::25] = 12.0
    stormy = DailyVariation.of(series(values))
    assert calm is not None
    assert stormy is not None
    assert stormy.spread < 1.3 * calm.spread
    z = stormy.standardised(series(values), stormy.mean)
    assert (mean_e_values(z, 2.5) > 1.05).any()
    assert (e_values(z, 2.5).mean(axis=1) <= mean_e_values(z, 2.5)).all()


def test_small_days_are_not_outliers_more_often() -> None:
    """One day in eight has ten rows, the others 900: a row varies by 5, a day by 0.05."""
    random = np.random.default_rng(5)
    rows = np.where(np.arange(4000) % 8 == 3, 10, 900)
    noise = 25.0 / rows
    days = Series(np.arange(4000.0), random.normal(0, np.sqrt(noise + 0.05**2)), noise)
    usual = DailyVariation.of(Series(days.day[:200], days.value[:200], days.noise[:200]))
    assert usual is not None
    z = usual.standardised(days, usual.mean)
    assert z[rows == 10].std() == pytest.approx(1, abs=0.15)
    assert z[rows == 900].std() == pytest.approx(1, abs=0.15)


def test_few_days_give_no_evidence() -> None:
    assert DailyVariation.of(series(np.arange(6.0))) is None
    assert DailyVariation.of(series(np.array([*np.arange(6.0), np.nan]))) is None
