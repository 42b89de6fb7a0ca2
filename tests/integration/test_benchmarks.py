"""The benchmark harness, and some benchmarks on a small problem; real figures need an idle machine."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pytest
from typer.testing import CliRunner

from benchmarks import edits, harness
from benchmarks.__main__ import NAMES, ON_REQUEST, benchmark, main, table
from benchmarks.harness import Measurement, Row, growth, measure
from benchmarks.monitoring import drift
from benchmarks.pipeline import aggregations, lifecycle, pit_join, scale, score, tables
from benchmarks.replay import plain_change
from tests.simulated_deliveries import install
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.errors import PlatformError
from truecourse.features.aggregates.evaluation import evaluate
from truecourse.features.definition_digests import feature_table
from truecourse.problem.loader import load_problem, problem_digest
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, raw_table


def fills(megabytes: int) -> Callable[[], int]:
    """A measured function: its setup is not counted, filling the array is."""
    sleep_before = np.ones(1)
    return lambda: int(np.full(megabytes << 17, sleep_before[0]).sum()) >> 17


def works(seconds: float) -> Callable[[], None]:
    end_of = time.process_time() + seconds
    while time.process_time() < end_of:  # setup, which must not count
        pass

    def run() -> None:
        end = time.process_time() + 2 * seconds
        while time.process_time() < end:
            pass

    return run


def fails() -> Callable[[], None]:
    raise RuntimeError("this is why")


def test_a_measured_process_has_its_own_memory_and_clock(home: Path) -> None:
    small, large = (measure("tests.integration.test_benchmarks:fills", megabytes=mb) for mb in (1, 400))
    assert large.result == 400
    assert 350e6 < large.peak_bytes - small.peak_bytes < 900e6
    worked = measure("tests.integration.test_benchmarks:works", seconds=0.2)
    assert 0.35 < worked.cpu < 0.6
    assert worked.seconds >= 0.35


def test_a_failure_of_a_measured_process_is_reported(home: Path) -> None:
    with pytest.raises(PlatformError, match="this is why"):
        measure("tests.integration.test_benchmarks:fails")


@pytest.mark.parametrize(
    ("row", "ratio", "holds"),
    [
        ({"value": 2.0, "reference": 1.0, "limit": 2.5}, 2.0, True),
        ({"value": 3.0, "reference": 1.0, "limit": 2.5}, 3.0, False),
        ({"value": 2.0, "reference": 120.0, "inverse": True, "limit": 50, "sense": "at least"}, 60.0, True),
        ({"value": 3.0, "reference": 120.0, "inverse": True, "limit": 50, "sense": "at least"}, 40.0, False),
        ({"value": 3.9, "limit": 4}, None, True),
        ({"value": 4.1, "limit": 4}, None, False),
        ({"value": 1.0, "reference": 0.0, "limit": 4}, None, False),
        ({"value": 4.1}, None, True),
    ],
)
def test_a_row_holds_by_its_figures(row: dict[str, Any], ratio: float | None, holds: bool) -> None:
    figure = Row(what="", unit="s", **row)
    assert (figure.ratio, figure.holds) == (ratio, holds)


def test_the_report_has_the_agreed_form(home: Path) -> None:
    harness.report("sample", [Row(what="a", value=1.0, unit="s", reference=2.0, limit=1.0)])
    document = json.loads((home / "benchmarks" / "sample.json").read_text())
    assert {"name", "machine", "rows"} <= set(document)
    assert {"what", "value", "unit", "reference", "ratio", "limit", "holds"} <= set(document["rows"][0])
    assert set(document["machine"]) == {"cores", "memory_gb", "cpu", "python", "system"}
    assert table(document).row_count == 1


def test_growth_is_the_exponent() -> None:
    assert growth([1, 3, 10], [5, 15, 50]) == pytest.approx(1)
    assert growth([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


@pytest.mark.parametrize("name", NAMES + ON_REQUEST)
def test_every_name_is_that_of_a_benchmark(name: str) -> None:
    assert callable(benchmark(name).rows)


def test_the_edits_of_the_flights_apply_one_after_another(tmp_path: Path, configure: Callable[..., None]) -> None:
    """Each gives another problem that loads; the last one has no faults, and every named view is one of its views."""
    folder = edits.install(load_problem("flight_delays"), tmp_path, every=1)
    configure(problems=tmp_path)
    problem = load_problem("flight_delays")
    found, seen, views = (
        edits.edits_of(problem.name)["edits"],
        {problem_digest(problem)},
        {view.name for view in problem.views},
    )
    for one in found:
        edits.replace_texts(folder, one["replace"])
        problem = load_problem("flight_delays")
        seen.add(problem_digest(problem))
        assert {*one.get("recomputed", ())} <= views
    assert len(seen) == len(found) + 1 > 14
    assert check_problem(problem) == []


def test_an_unknown_benchmark_is_named(home: Path) -> None:
    import typer

    command = typer.Typer()
    command.command()(main)
    result = CliRunner().invoke(command, ["nonsense"])
    assert result.exit_code == 2
    assert "pit_join" in result.output


def test_drift_figures_come_with_their_reference(home: Path) -> None:
    ours = measure("benchmarks.monitoring.drift:ours", reference=20_000, window=7_000)
    theirs = measure("benchmarks.monitoring.drift:evidently", reference=2_000, window=1_000)
    assert ours.result == 0  # nothing drifted
    assert theirs.result > drift.COLUMNS


@pytest.mark.parametrize(("earlier", "confirmed"), [(0.5, True), (3.0, False)])
def test_a_true_alarm_is_about_a_week_like_none_before(earlier: float, confirmed: bool) -> None:
    """Two rows on each of 40 days; the mean of the last week is higher by 1, that of a week before it by `earlier`."""
    day = np.repeat(np.arange(40), 2)
    values = 5 + 0.01 * (day % 3) + 1.0 * (day >= 33) + earlier * ((day >= 10) & (day < 17))
    times = np.datetime64("2024-01-01T05:00", "us") + day.astype("timedelta64[D]")
    frame = pa.table({"decision_time": times, "weight": values, "name": [None if n == 39 else "a" for n in day]})
    alarm = {"at": "2024-02-10T06:00:00+00:00", "cause": "drift", "subject": "weight"}
    change = plain_change(frame, alarm)
    assert (change["times"] > 1) == confirmed
    assert change["what"] == f"mean of the week {values[-14:].mean():.3f}"
    assert plain_change(frame, alarm | {"subject": "name", "cause": "dead feed"})["times"] > 1
    assert plain_change(frame, alarm | {"subject": "name"})["times"] == 0


@pytest.fixture
def small(tmp_path: Path, configure: Callable[..., None]) -> Path:
    install(tmp_path / "problems")
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    return tmp_path


def test_copies_have_keys_and_times_of_their_own(small: Path) -> None:
    measure("benchmarks.home:prepare", problem="deliveries", until="ingest")
    spec, tables = load_problem(), Tables()
    name = raw_table("deliveries", "deliveries")
    rows = tables.read(TableVersion(name=name, version=0))
    copies = pa.concat_tables([scale.shift_copy(spec.table("deliveries"), rows, copy) for copy in range(3)])
    for column in ("delivery", "_tc_row"):
        assert len(set(copies[column].to_pylist())) == 3 * len(rows)
    days = (copies["ordered_at"][len(rows)].as_py() - rows["ordered_at"][0].as_py()).days
    assert days % 7 == 0
    assert days >= 60
    assert copies["distance"].slice(len(rows), len(rows)).to_pylist() == rows["distance"].to_pylist()


def test_a_larger_problem_has_the_same_shares_of_rows(small: Path, configure: Callable[..., None]) -> None:
    """Its files hold the rows of every copy, and its split cuts them at the same share of their time."""
    split, rows = load_problem().split, lifecycle.write_copies("deliveries", str(small / "larger"), 3)()
    configure(home=small / "other", problems=small / "larger" / "problems", problem="deliveries")
    larger = load_problem()
    read = {table.name: pv.read_csv(small / "larger" / "files" / f"{table.name}.csv") for table in larger.tables}
    assert sum(map(len, read.values())) == rows
    first, last = (day.date() for day in pc.min_max(read["deliveries"]["ordered_at"]).as_py().values())
    shares = [(getattr(larger.split, name) - first) / (last - first) for name in ("train_until", "validate_until")]
    assert split != larger.split
    assert shares == pytest.approx([0.66, 0.83], abs=0.03)


def test_the_growth_of_each_step_and_of_the_whole_is_limited() -> None:
    runs = {
        "train": [Measurement(seconds=1, cpu=cpu, peak_bytes=peak) for cpu, peak in ((1, 10**9), (10, 9 * 10**9))],
        "score": [Measurement(seconds=1, cpu=cpu, peak_bytes=10**9) for cpu in (2, 30)],
    }
    found = {row.what: row for row in lifecycle.figures([100, 1000], runs)}
    assert found["train: growth exponent of CPU time"].holds
    assert not found["score: growth exponent of CPU time"].holds
    assert found["all steps, 1,000 rows: CPU time"].value == 40
    assert not found["all steps, 1,000 rows: peak memory"].holds
    assert found["score, 1,000 rows: peak memory"].holds


def test_the_three_joins_join_the_same_and_copies_grow(small: Path) -> None:
    rows = {row.what: row for row in pit_join.rows(quick=False)}
    assert len(rows) == 5
    assert any("48,000 decisions" in what for what in rows)
    spec, tables = load_problem(), Tables()
    versions = pit_join.feature_versions(spec, tables)
    assert set(versions) == {view.name for view in spec.views}
    counts = {row.what: row.reference for row in rows.values() if row.reference_is == "Polars join_asof"}
    assert len(counts) == 1
    assert all(value is not None and value > 0 for value in counts.values())
    assert tables.exists(feature_table(load_problem("deliveries"), "courier_history"))


def test_steps_are_measured_on_copies_of_the_tables(small: Path) -> None:
    rows = [row for row in scale.rows(quick=True) if row.reference is not None]
    assert len(rows) == 3 * 2 * 2  # steps, sizes, time and memory
    assert all(row.value > 0 for row in rows)


def test_scoring_is_measured_against_both_references(small: Path) -> None:
    rows = score.rows(quick=True)
    assert [row.reference_is for row in rows[:3]][-1] == "MLflow pyfunc, on codes in memory"
    assert all(row.value > 0 for row in rows)


def test_losses_on_a_real_table_are_compared_with_other_libraries(
    tmp_path: Path, home: Path, configure: Callable[..., None]
) -> None:
    configure(problems=tmp_path / "problems")
    comparison = tables.compare_tables(["hitters"], str(tmp_path))()["hitters"]
    assert comparison["kind"] == "regression"
    assert comparison["test_rows"] == 263  # each row that has a salary, once
    assert all(100 < loss < 700 for loss in comparison["losses"].values())
    assert len(set(comparison["losses"].values())) == 3
    assert comparison["worse_by_at_least"] <= 0
    assert comparison["seconds"] < 60


def test_every_real_table_is_installed() -> None:
    for name, source in tables.TABLES.items():
        assert source.path.is_file(), name


def test_aggregations_are_compared_with_the_same_windows_in_polars() -> None:
    events = aggregations.departures(100, fractions=True)
    spec = aggregations.aggregations(aggregations.ROLLING | aggregations.GROUPED)
    stored = aggregations.stored_rows(events, spec)
    found = pl.DataFrame(evaluate(spec, stored, events.select(aggregations.KEYS), events["time"].to_numpy()))
    by_expression = aggregations.rolling_expressions(events, aggregations.ROLLING)
    in_groups = aggregations.rolling_groups(events, aggregations.GROUPED).sort(*aggregations.KEYS, "time")
    age = (pl.col("time") - pl.col("age_1d")) / pl.duration(days=1)
    in_groups = in_groups.with_columns(age_1d=age.cast(pl.Float64))
    places = events.with_row_index("place").sort(*aggregations.KEYS, "time", maintain_order=True)["place"]
    compared = [(found[name], by_expression[name]) for name in aggregations.ROLLING]
    found = found.with_columns(pl.col("sum_7d").fill_nan(0))  # Polars' sum of no values, in groups only
    compared += [(found[places][name], in_groups[name]) for name in aggregations.GROUPED]
    for ours, theirs in compared:
        np.testing.assert_allclose(ours.to_numpy(), theirs.cast(pl.Float64).to_numpy(), rtol=1e-12, atol=1e-12)


def test_aggregations_are_measured_online_and_with_late_rows() -> None:
    online = aggregations.online(200)()
    assert online["keys"] > 30
    assert 0 < online["read"] < 0.01
    assert aggregations.late_rows(200)()["decisions"] == 1684
