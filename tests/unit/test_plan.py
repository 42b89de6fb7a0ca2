"""The plan of costs: curves, workloads of several kinds of problems, limits, and the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.main import execute
from tasks.planning.calibrate import measure_stage
from tasks.planning.calibration_problem import NAME, write_problem
from tests.conftest import REPOSITORY
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.data.sql import labelled_tables
from truecourse.planning.curves import STAGES, calibration_file, load_calibration, shipped_calibration, value_at
from truecourse.planning.estimate import Machine, Prices, make_plan
from truecourse.planning.workload import Workload, declared_workload
from truecourse.problem.loader import load_problem

PROBLEMS = REPOSITORY / "tests" / "problems"
LARGE = Machine(memory=1e15, disk=1e18, hours=1e9)
values = st.floats(0, 1e9)
first = itemgetter(0)
Workloads = Callable[..., Workload]


@pytest.fixture
def workload_of(configure: Callable[..., None]) -> Workloads:
    configure(problems=PROBLEMS)  # feature areas are found beside it

    def workload(name: str, rows: int = 1000) -> Workload:
        problem = load_problem(name)
        return declared_workload(problem, dict.fromkeys(labelled_tables(problem), rows))

    return workload


@given(st.lists(st.tuples(st.integers(0, 10**9), values), min_size=1, max_size=4, unique_by=first), values, values)
def test_a_curve_never_falls_and_meets_rising_points(points: list[tuple[int, float]], one: float, other: float) -> None:
    sizes, costs = zip(*sorted(points), strict=True)
    low, high = sorted((one, other))
    assert 0 <= value_at(low, sizes, costs) <= value_at(high, sizes, costs) * (1 + 1e-9) + 1e-6
    assert value_at(sizes[-1], sizes, costs) == pytest.approx(max(costs))


def test_a_curve_goes_on_with_its_last_line() -> None:
    assert value_at(40, (10, 20, 30), (1, 1, 3)) == 5
    assert value_at(15, (10, 20, 30), (1, 1, 3)) == 1


@pytest.mark.parametrize("name", ["deliveries", "wine", "growth", "segments", "diabetes", "leaving"])
@pytest.mark.parametrize("times", [1.5, 40, 10_000])
def test_more_rows_cost_no_less(workload_of: Workloads, name: str, times: float) -> None:
    workload, calibration = workload_of(name), shipped_calibration()
    less, more = (make_plan(workload.scaled(by), calibration, LARGE, Prices()) for by in (1, times))
    assert less.cpu_seconds <= more.cpu_seconds
    assert less.peak_memory_bytes <= more.peak_memory_bytes
    assert less.storage_bytes <= more.storage_bytes
    assert [stage.stage for stage in less.stages] == list(STAGES)


@pytest.mark.parametrize("name", ["deliveries", "wine", "growth", "segments"])
def test_a_problem_fits_up_to_its_first_limit_and_not_beyond(workload_of: Workloads, name: str) -> None:
    workload, calibration = workload_of(name), shipped_calibration()
    machine = Machine(memory=64e9, disk=1e12)
    times = make_plan(workload, calibration, machine, Prices()).limits[0].times
    assert times is not None
    assert times > 1
    below, above = (make_plan(workload.scaled(times * by), calibration, machine, Prices()) for by in (0.9, 1.1))
    assert below.profile == "local"
    assert above.profile != "local"


def test_a_full_disk_needs_servers_and_too_little_memory_excludes_both(workload_of: Workloads) -> None:
    workload, calibration = workload_of("deliveries"), shipped_calibration()
    disk = make_plan(workload, calibration, Machine(memory=1e15, disk=1), Prices())
    assert (disk.profile, disk.limits[0].what) == ("servers", "disk")
    assert make_plan(workload, calibration, Machine(memory=1, disk=1e15), Prices()).profile is None


def test_only_tables_with_a_time_grow(workload_of: Workloads) -> None:
    grown = workload_of("deliveries").scaled(3)
    assert dict(grown.tables) == {"deliveries": 3000, "couriers": 1000}
    assert workload_of("wine").scaled(3).decision_rows == 3000
    assert replace(grown, decisions=10).scaled(2).decision_rows == 20


def test_money_follows_the_declared_prices(workload_of: Workloads) -> None:
    made = make_plan(workload_of("wine"), shipped_calibration(), LARGE, Prices(core_hour=3600, storage_gb_month=1e9))
    assert made.money_per_run == pytest.approx(made.cpu_seconds)
    assert made.money_per_month == pytest.approx(made.storage_bytes)


def test_the_generated_problem_is_valid_and_its_stages_are_measured(tmp_path: Path) -> None:
    write_problem(tmp_path / "problems", 300)
    problem = load_problem(NAME, tmp_path / "problems")
    assert not check_problem(problem)
    cost = measure_stage(NAME, "ingest", tmp_path / "home", tmp_path / "problems")
    assert cost.cpu > 0
    assert cost.memory > 1e7
    assert cost.storage > 300 * 7


@pytest.fixture
def own_home(home: Path, configure: Callable[..., None]) -> Path:
    configure(problems=PROBLEMS)
    home.mkdir()
    return home


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    status = execute(("plan", "--problem", "deliveries", "--json", *words))
    return status, json.loads(capsys.readouterr().out)


def test_the_command_plans_declared_rows_before_there_are_any(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run(capsys, "--rows", "deliveries=1e6", "--rows", "couriers=500", "--times", "2")
    assert status == 0
    assert found["tables"] == {"deliveries": 2_000_000, "couriers": 500}
    assert found["calibration"]["own"] is False  # type: ignore[index]
    assert execute(("plan", "--problem", "deliveries", "--rows", "deliveries=10", "--rows", "couriers=5")) == 0
    assert "another machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "no rows are stored of deliveries, couriers"),
        (("--rows", "deliveris=3"), "no such table"),
        (("--rows", "deliveries=many"), "'deliveries=many' is not NAME=NUMBER"),
        (("--rows", "deliveries"), "'deliveries' is not NAME=NUMBER"),
        (("--price", "core=1"), "no such price"),
    ],
)
def test_a_wrong_argument_is_named(
    own_home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], what: str
) -> None:
    status, found = run(capsys, *words)
    assert status == 1
    assert found["error"]["what"] == what  # type: ignore[index]


def test_a_calibration_of_this_machine_is_preferred_and_a_broken_one_is_named(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration_file().write_text(shipped_calibration().model_dump_json())
    assert load_calibration() == (shipped_calibration(), True)
    calibration_file().write_text("{}")
    status, found = run(capsys, "--rows", "deliveries=10", "--rows", "couriers=10")
    assert status == 1
    assert "--calibrate" in found["error"]["hint"]  # type: ignore[index]
