"""Drift is a larger move from the weeks before than ever: a season is none, a broken relation is one."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from truecourse.monitoring.drift.consecutive_windows import MIN_ROWS, Days, compare_windows
from truecourse.monitoring.drift.histograms import Counts, learn_bins
from truecourse.monitoring.drift.reference_profile import DailyHistograms
from truecourse.monitoring.drift.relations import Relations, RowSampler, moments
from truecourse.monitoring.drift.window_drift import build_findings, compare
from truecourse.problem import Boolean, Files, Label, Problem, Table, Text

A_DAY = 100
PROBLEM = Problem(
    "plain",
    kind="binary",
    tables=[Table("rows", source=Files("rows.csv"), columns={"sky": Text(), "y": Boolean()})],
    label=Label(column="y"),
)
BINS = learn_bins(pa.table({"sky": ["clear", "grey"] * 50}), ["sky"])


def side(first: str, clear: Sequence[float]) -> DailyHistograms:
    """Days from `first`, with these shares of clear skies."""
    frames = [["clear"] * round(share * A_DAY) + ["grey"] * round((1 - share) * A_DAY) for share in clear]
    rows = pa.table({"sky": [sky for day in frames for sky in day]})
    counts = Counts.of(BINS, rows, np.repeat(np.arange(len(clear)), A_DAY))
    return DailyHistograms(BINS, np.datetime64(first, "D") + np.arange(len(clear)), counts)


WEEK = [0.9, 0.88, 0.92, 0.9, 0.89, 0.91, 0.9]
STEADY = side("2013-09-02", [0.5, 0.52, 0.48, 0.5, 0.54, 0.46, 0.49] * 17)
NOW = side("2013-12-30", WEEK)


@pytest.mark.parametrize(
    ("then", "excused"),
    [([0.9, 0.89, 0.91, 0.9] * 3, True), ([0.5, 0.51, 0.49, 0.5] * 3, False), ([1.0, 0.0, 1.0, 0.9] * 3, False)],
    ids=["as now", "as ever", "too wild to tell"],
)
def test_drift_that_recurs_yearly_is_within_seasonal_range(then: list[float], excused: bool) -> None:
    moved = compare(PROBLEM, Days(NOW), STEADY, Days(STEADY), side("2013-01-01", then))
    assert moved.seasonal == (("sky",) if excused else ())
    assert bool(build_findings(moved, "drift")) != excused


def test_an_unprecedented_move_is_critical() -> None:
    (found,) = build_findings(compare(PROBLEM, Days(NOW), STEADY, Days(STEADY), None), "drift")
    assert found.page
    # Windows that overlap the 28 days before the window are not among the past ones.
    assert found.figures["past"] == ["2013-09-30", "2013-12-01"]
    assert "times the largest past change of 2013-09-30 to 2013-12-01 (" in found.sentence
    # The same week after a season that goes there as fast is none, far as it is from the training rows.
    wave = side("2013-09-02", np.round(0.5 + 0.4 * np.sin(np.arange(119) / 119 * 4 * np.pi + np.pi / 2), 2).tolist())
    known = compare(PROBLEM, Days(NOW), STEADY, Days(wave), None)
    assert (build_findings(known, "drift"), known.seasonal) == ([], ("sky",))


@pytest.mark.parametrize("rows", [0, MIN_ROWS - 1])
def test_too_few_rows_or_days_are_unknown_with_their_count(rows: int) -> None:
    few = DailyHistograms(BINS, NOW.days[:1], Counts(np.array([[rows, 0, 0, 0]])))
    tested = compare_windows(Days(STEADY), Days(few), 0.1, 0.05)
    assert tested.columns == {}
    assert tested.missing.startswith(f"{MIN_ROWS - rows} more row")
    short = Days(side("2013-12-16", WEEK * 2))
    moved = compare(PROBLEM, Days(NOW), STEADY, short, None)
    assert (moved.missing.partition(" needed")[0], moved.seasonal) == ("21 more days of history", ())


def world(seed: int, days: int = 84, a_day: int = 120) -> pa.Table:
    """Two related numbers with common daily weather, and an independent third."""
    random = np.random.default_rng(seed)
    n = days * a_day
    weather = np.repeat(random.normal(size=days), a_day)
    one = random.normal(size=n) + weather
    at = np.datetime64("2024-01-01") + np.repeat(np.arange(days), a_day).astype("timedelta64[D]")
    return pa.table({
        "one": one, "two": one + random.normal(size=n) / 2, "three": random.normal(size=n),
        "kind": random.choice(["a", "b"], n), "at": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
    })  # fmt: skip


def find_drift_of(rows: pa.Table, window: int = 7) -> dict[str, str]:
    """The columns that drifted in the last days, with the aspect."""
    names = ["one", "two", "three", "kind"]
    of = rows["at"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    days, blocks = np.unique(of, return_inverse=True)
    fitted = rows.filter(pa.array(blocks < len(days) - window))
    bins = learn_bins(fitted, names)
    relations, counts = Relations.learn(fitted, bins, "at"), Counts.of(bins, rows, blocks).matrix
    sums = moments(np.stack([relations.sums(rows.filter(pa.array(blocks == day)), "at") for day in range(len(days))]))
    cut = len(days) - window
    past, now = (
        Days(DailyHistograms(bins, days[part], Counts(counts[part])), sums[part], relations.names)
        for part in (slice(None, cut), slice(cut, None))
    )
    found = compare_windows(past, now, 0.1, 0.025)
    assert found.missing == ""
    both = [*found.columns.items(), *found.relations.items()]
    return {f"{name}: {one.aspect}": "far" if one.critical else "" for name, one in both if one.drifted}


def changed(rows: pa.Table, name: str, by: object) -> pa.Table:
    values = rows[name].to_numpy().copy()
    values[-7 * 120 :] = by(values[-7 * 120 :])  # type: ignore[operator]
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


def test_a_broken_relation_is_detected_without_column_drift() -> None:
    rows = world(1)
    assert find_drift_of(rows) == {}
    random = np.random.default_rng(2)
    broken = find_drift_of(changed(rows, "two", random.permutation))
    assert broken
    assert all("relation" in text for text in broken)
    assert any(text.startswith("two:") for text in broken)
    # Half a standard deviation is less than the weather makes of a week; what the other column tells gives it away.
    assert any("two: relation" in text for text in find_drift_of(changed(rows, "two", lambda values: values + 0.75)))
    assert "three: spread" in " ".join(find_drift_of(changed(rows, "three", lambda values: 2 * values)))


@pytest.mark.parametrize("extreme", [1.7e308, -1.7e308, 5e-324])
def test_the_most_extreme_numbers_are_compared(extreme: float) -> None:
    rows = changed(world(1), "three", lambda values: np.where(np.arange(len(values)) % 2, extreme, values))
    assert any(text.startswith("three:") for text in find_drift_of(rows))
    relations = Relations.learn(rows, learn_bins(rows, ["one", "two", "three", "kind"]), "at")  # and as reference
    assert np.isfinite(relations.weights).all()
    values = np.full(len(rows), -extreme)
    assert np.abs(relations.values(rows.set_column(2, "three", pa.array(values)))).max() < 100


def test_clean_weeks_rarely_have_findings() -> None:
    assert sum(bool(find_drift_of(world(seed))) for seed in range(40)) <= 2


def test_sums_of_a_day_do_not_depend_on_its_parts() -> None:
    rows = world(3, days=1, a_day=9999)
    relations = Relations.learn(rows, learn_bins(rows, ["one", "two", "three", "kind"]), "at")
    taken, parts = RowSampler(len(rows)), [rows.slice(first, 777) for first in range(0, len(rows), 777)]
    whole = relations.sums(RowSampler(len(rows)).take(rows), "at")
    assert np.array_equal(sum(relations.sums(taken.take(part), "at") for part in parts), whole)
    again = Relations.from_document(relations.to_document())
    assert np.array_equal(again.sums(RowSampler(len(rows)).take(rows), "at"), whole)
