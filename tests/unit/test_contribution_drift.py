"""Contribution drift: no false alarms, and drifted contributions are reported unless negligible."""

import numpy as np
import pyarrow as pa
import pytest

from truecourse.arrays import Array
from truecourse.monitoring.drift.attribution_drift import AttributionDrift, compare
from truecourse.monitoring.drift.daily_attributions import DailyAttributions
from truecourse.monitoring.predictions.observed_predictions import MOMENT
from truecourse.problem import Boolean, Files, Label, Problem, Table

PROBLEM = Problem(
    "plain", kind="binary", tables=[Table("rows", source=Files("rows.csv"), columns={"y": Boolean()})],
    label=Label(column="y"),
)  # fmt: skip
FEATURES, PAST = 10, 88


def contributions(days: int, first: int, seed: int, a_day: int = 100) -> pa.Table:
    """FEATURES contributions, each with its own mean per day; the last is negligible."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(first, first + days), a_day).astype("datetime64[D]").astype("datetime64[us]")
    made = random.normal(size=(days * a_day, FEATURES))
    made += 0.3 * np.repeat(random.normal(size=(days, FEATURES)), a_day, axis=0)
    made[:, -1] *= 1e-3
    columns: dict[str, Array] = {f"x{i}": values for i, values in enumerate(made.T)}
    return pa.table(columns).append_column(MOMENT, pa.array(day, pa.timestamp("us", tz="UTC")))


def compare_window(window: pa.Table, seed: int) -> AttributionDrift:
    before = DailyAttributions.of(contributions(PAST, 0, seed))
    parts = compare(PROBLEM, before, DailyAttributions.of(window, before.histograms))
    assert parts is not None
    return parts


def shift_contributions(rows: pa.Table, name: str, by: float) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(rows[name].to_numpy() + by))


def test_false_alarms_keep_the_rate_over_all_features() -> None:
    trials = [compare_window(contributions(7, PAST, 10_000 + seed), seed) for seed in range(100)]
    rejected = sum(min(part.p_value for part in parts.parts) <= 0.05 for parts in trials)
    assert rejected <= 11  # 5 expected; 11 is the 99th percentile
    assert sum(bool(parts.drifted) for parts in trials) <= rejected


@pytest.mark.parametrize("by", [-0.7, 0.7])
def test_a_drifted_contribution_is_reported_with_its_former_size(by: float) -> None:
    parts = compare_window(shift_contributions(contributions(7, PAST, 10_000), "x3", by), 0)
    (part,) = parts.drifted
    assert part.name == parts.parts[0].name == "x3"
    assert part.push[1] - part.push[0] == pytest.approx(by, abs=0.3)
    assert sum(one.weight[0] for one in parts.parts) == pytest.approx(sum(one.weight[1] for one in parts.parts))
    assert parts.rows == (100 * PAST, 700)


def test_a_significant_change_of_a_negligible_contribution_is_no_finding() -> None:
    parts = compare_window(shift_contributions(contributions(7, PAST, 10_000), "x9", 0.01), 0)
    (part,) = (one for one in parts.parts if one.name == "x9")
    assert part.p_value <= 0.05
    assert part.psi > 1
    assert not parts.drifted


def test_results_are_deterministic() -> None:
    assert compare_window(contributions(7, PAST, 1), 0) == compare_window(contributions(7, PAST, 1), 0)
