"""Drift detection: no false alarms with rows clustered by day; real changes are found."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.errors import FeatureError
from truecourse.monitoring.drift import permutation_test
from truecourse.monitoring.drift.histograms import FEW_EDGES, MISSING, Bins, learn_bins

UTC = pa.timestamp("us", tz="UTC")


def days(count: int, first: int, seed: int, a_day: int = 100, columns: int = 12, clustered: float = 0.5) -> pa.Table:
    """Rows of whole days; each day has its own mean in every number, and the usual mix of categories."""
    random = np.random.default_rng(seed)
    n = count * a_day
    day = np.repeat(np.arange(first, first + count), a_day).astype("datetime64[D]").astype("datetime64[us]")
    at = day + random.integers(0, 86_400_000_000, n).astype("timedelta64[us]")
    made = {
        f"x{i}": random.normal(size=n) + clustered * np.repeat(random.normal(size=count), a_day) for i in range(columns)
    }
    made["kind"] = np.array([f"k{i}" for i in range(60)])[random.zipf(1.5, n).clip(1, 60) - 1]
    made["rain"] = np.maximum(random.normal(size=n) - 1, 0)
    return pa.table(made).append_column("at", pa.array(at, UTC))


def names(frame: pa.Table) -> list[str]:
    return [name for name in frame.column_names if name != "at"]


def changed(frame: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    return frame.set_column(frame.column_names.index(name), name, pa.array(values, from_pandas=True))


def check(reference: pa.Table, window: pa.Table, **options: Any) -> permutation_test.Drift:
    return permutation_test.compare(reference, window, names(reference), time="at", **options)


def alarms(trials: int, **options: Any) -> float:
    raised = 0
    for seed in range(trials):
        found = check(
            days(30, 0, seed), days(7, 30, seed + 10_000), permutations=199, seed=seed, threshold=1e-9, **options
        )
        raised += bool(found.drifted)
    return raised / trials


def test_false_alarms_keep_the_rate_over_all_columns() -> None:
    # 200 trials at 5%: 10 expected, 18 is the 99th percentile. The practical threshold is off.
    assert alarms(200) <= 18 / 200


def test_assuming_independent_rows_would_raise_false_alarms() -> None:
    """The same data without days shows why a block permutation is needed."""
    raised = 0
    for seed in range(20):
        reference, window = days(30, 0, seed), days(7, 30, seed + 10_000)
        found = permutation_test.compare(reference, window, names(reference), permutations=99, threshold=1e-9)
        raised += bool(found.drifted)
    assert raised >= 18


def test_a_shift_is_detected_with_its_column() -> None:
    reference, window = days(60, 0, 1), days(7, 60, 2)
    shifted = changed(window, "x3", window["x3"].to_numpy() + 1.0)
    assert [column.name for column in check(reference, shifted).drifted] == ["x3"]
    assert not check(reference, window).drifted


def test_missing_values_are_detected() -> None:
    reference, window = days(60, 0, 1), days(7, 60, 2)
    values = window["x5"].to_numpy().copy()
    values[::4] = np.nan
    (found,) = check(reference, changed(window, "x5", values)).drifted
    assert found.name == "x5"
    assert found.missing == (0.0, 0.25)
    assert found.labels[-1] == MISSING


def test_a_new_category_is_detected() -> None:
    reference, window = days(60, 0, 1), days(7, 60, 2)
    kinds = window["kind"].to_numpy(zero_copy_only=False).copy()
    kinds[::5] = "never seen"
    assert [column.name for column in check(reference, changed(window, "kind", kinds)).drifted] == ["kind"]


def test_a_finding_needs_significance_and_size() -> None:
    reference, window = days(60, 0, 1), days(7, 60, 2)
    shifted = changed(window, "x3", window["x3"].to_numpy() + 1.0)
    assert check(reference, shifted, threshold=100.0).drifted == ()
    # Without days of their own, a tiny shift is significant and not worth an alarm.
    alike, moved = days(60, 0, 1, clustered=0.0), days(30, 60, 2, clustered=0.0)
    moved = changed(moved, "x3", moved["x3"].to_numpy() + 0.15)
    found = {column.name: column for column in check(alike, moved).columns}["x3"]
    assert found.p_value <= 0.05
    assert not found.drifted


def test_too_few_days_are_unknown() -> None:
    found = check(days(3, 0, 1), changed(days(1, 3, 2), "x0", np.full(100, 9.0)))
    assert (found.decidable, found.least_p, found.drifted) == (False, 0.25, ())


def test_works_without_time() -> None:
    random = np.random.default_rng(0)
    reference = pa.table({"a": random.normal(size=500), "b": random.choice(["x", "y"], 500)})
    same = pa.table({"a": random.normal(size=200), "b": random.choice(["x", "y"], 200)})
    other = pa.table({"a": random.normal(size=200), "b": random.choice(["x", "y"], 200, p=[0.9, 0.1])})
    assert not permutation_test.compare(reference, same, ["a", "b"]).drifted
    assert [column.name for column in permutation_test.compare(reference, other, ["a", "b"]).drifted] == ["b"]


def test_false_alarms_without_time() -> None:
    raised = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        frame = pa.table({f"x{i}": random.normal(size=700) for i in range(8)})
        found = permutation_test.compare(
            frame.slice(0, 500), frame.slice(500), frame.column_names, threshold=1e-9, permutations=199, seed=seed
        )
        raised += bool(found.drifted)
    assert raised <= 18


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_a_constant_that_moves_either_way_is_detected(constant: float) -> None:
    reference = pa.table({"c": np.full(500, constant)})
    for moved in (constant - 1, constant + 1):
        assert permutation_test.compare(reference, pa.table({"c": np.full(200, moved)}), ["c"]).drifted
    assert not permutation_test.compare(reference, reference, ["c"]).drifted


def test_every_row_falls_in_exactly_one_bin() -> None:
    random = np.random.default_rng(3)
    columns = {
        "number": pa.array(np.where(random.random(999) < 0.1, np.nan, random.normal(size=999)), from_pandas=True),
        "whole": pa.array(random.integers(0, 4, 999)),
        "flag": pa.array(random.random(999) < 0.3),
        "text": pa.array(random.choice(np.array(["a", "b", None]), 999)),
        "empty": pa.nulls(999, pa.float64()),
    }
    frame = pa.table(columns)
    for name, bins in learn_bins(frame, frame.column_names).items():
        codes = bins.codes(frame[name])
        assert codes.min() >= 0
        assert codes.max() < len(bins.labels)
        assert np.array_equal(codes == len(bins.labels) - 1, np.array(frame[name].is_null()))


@given(
    st.lists(st.floats(allow_nan=False), max_size=FEW_EDGES + 8, unique=True),
    st.lists(st.floats() | st.integers(0, FEW_EDGES), min_size=1, max_size=50),
)
def test_a_number_falls_behind_as_many_edges_as_a_search_finds(edges: list[float], drawn: list[float]) -> None:
    bins = Bins("number", np.sort(np.array(edges, dtype=np.float64)))
    values = np.array([edges[v] if isinstance(v, int) and v < len(edges) else v for v in drawn], dtype=np.float64)
    wanted = np.where(np.isnan(values), len(bins.labels) - 1, np.searchsorted(bins.edges, values, side="left"))
    codes = bins.codes(pa.chunked_array([values]))
    assert codes.dtype == np.int64
    assert np.array_equal(codes, wanted)


def test_psi_equals_the_textbook_formula() -> None:
    reference, window = np.array([300.0, 700.0]) * 1e6, np.array([500.0, 500.0]) * 1e6
    expected = 0.2 * np.log(0.5 / 0.3) - 0.2 * np.log(0.5 / 0.7)
    assert permutation_test.psi(reference, window, np.array([0]))[0] == pytest.approx(expected, rel=1e-6)


def test_results_are_deterministic() -> None:
    reference, window = days(30, 0, 1), days(7, 30, 2)
    assert check(reference, window) == check(reference, window)


def test_an_empty_window_is_rejected() -> None:
    frame = days(3, 0, 1)
    with pytest.raises(FeatureError, match="window has no rows"):
        check(frame, frame.slice(0, 0))
