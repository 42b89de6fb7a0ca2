"""The flights problem: its declarations, and its time arithmetic on flights with known times."""

from collections.abc import Iterator
from datetime import datetime

import duckdb
import numpy as np
import pytest

from truecourse.authoring.checks.run_checks import check_problem
from truecourse.data import sql
from truecourse.features.frame import compute_request_features
from truecourse.problem import Problem, View
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Float, Integer, Time

LATER = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
"""Columns of `flights` that nobody knows two hours before departure."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("flight_delays")


def view_file(problem: Problem, name: str) -> str:
    view = problem.view(name)
    assert isinstance(view, View)
    return view.sql


def test_the_flights_problem_is_valid_and_large_enough(problem: Problem) -> None:
    assert check_problem(problem) == []
    assert len(problem.tables) == 5
    assert len(problem.views) >= 5
    assert len(problem.features) >= 25


def test_every_timed_view_has_a_ttl_and_a_lookback(problem: Problem) -> None:
    for view in problem.views:
        assert view.timeless or (view.ttl and view.lookback), view.name


def test_no_outcome_column_is_in_the_request_or_the_spine(problem: Problem) -> None:
    assert not LATER & set(problem.request_fields)
    assert not LATER & set(problem.features)
    assert not LATER & set(sql.statement(problem, str(problem.spine)).replace(",", " ").split())


def test_outcomes_reach_features_only_with_their_known_at(problem: Problem) -> None:
    for view in problem.views:
        statement = sql.statement(problem, view_file(problem, view.name))
        assert "FROM flights" not in statement, view.name
        assert "FROM timetable" not in statement, view.name


@pytest.fixture
def connection(problem: Problem) -> Iterator[duckdb.DuckDBPyConnection]:
    """The problem's relations over tables that a test fills."""
    types = {Integer: "BIGINT", Float: "DOUBLE", Time: "TIMESTAMP"}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in problem.tables:
            columns = ", ".join(f"{name} {types.get(type(c), 'VARCHAR')}" for name, c in table.columns.items())
            connection.execute(f"CREATE TABLE {table.name} ({columns})")
        for name, file in problem.relations.items():
            connection.execute(f"CREATE VIEW {name} AS {sql.statement(problem, file)}")
        zones = {"IAH": "America/Chicago", "LAX": "America/Los_Angeles", "BUF": "America/New_York"}
        connection.executemany("INSERT INTO airports (faa, tzone) VALUES (?, ?)", list(zones.items()))
        yield connection


def add_flight(connection: duckdb.DuckDBPyConnection, **values: object) -> None:
    row = {"carrier": "UA", "flight": "1", "origin": "JFK", "tailnum": "N1", "distance": 500, **values}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO flights ({names}) VALUES ({marks})", list(row.values()))


@pytest.mark.parametrize(
    ("time_hour", "minute", "dest", "clock", "delays", "arrived"),
    [
        # UA 1545 of 1 January: 05:15 in New York to 08:19 in Houston, an hour behind; landed at 08:30, 14:30 UTC.
        ("2013-01-01 10:00", 15, "IAH", 819, (2, 11, 227), "2013-01-01 14:30"),
        # In summer: 17:30 to 21:10 in Los Angeles, three hours behind; 92 minutes late, 22:42 there, 05:42 UTC.
        ("2013-07-28 21:00", 30, "LAX", 2110, (-3, 92, 380), "2013-07-29 05:42"),
        # Over midnight, on the day that clocks went forward: 22:53 to 00:14 the next day; 168 minutes late.
        ("2013-03-11 02:00", 53, "BUF", 14, (180, 168, 53), "2013-03-11 07:02"),
        # Before the clocks went back, to after: 23:30 EDT to 02:30 EST is four hours.
        ("2013-11-03 03:00", 30, "BUF", 230, (0, 0, 60), "2013-11-03 07:30"),
        # San Juan is not among the airports, and keeps Atlantic time all year: 23:59 EDT is 23:59 there.
        ("2013-07-02 03:00", 59, "SJU", 340, (0, -5, 190), "2013-07-02 07:35"),
        # A delay that its minutes in the air contradict: not known before those have passed.
        ("2013-01-01 10:00", 15, "IAH", 819, (60, -60, 227), "2013-01-01 15:02"),
    ],
)
def test_an_outcome_is_known_when_the_flight_has_landed(
    connection: duckdb.DuckDBPyConnection,
    time_hour: str, minute: int, dest: str, clock: int, delays: tuple[int, int, int], arrived: str,
) -> None:  # fmt: skip
    departed, late, air_time = delays
    add_flight(
        connection, time_hour=time_hour, minute=minute, dest=dest, sched_arr_time=clock,
        dep_delay=departed, arr_delay=late, air_time=air_time,
    )  # fmt: skip
    ((known_at, label),) = connection.execute("SELECT known_at, late FROM outcomes").fetchall()
    assert known_at == datetime.fromisoformat(arrived)
    assert label == (late >= 15)


def test_decisions_are_two_hours_before_departure_and_departures_known_when_they_happen(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    add_flight(connection, time_hour="2013-01-01 10:00", minute=15, dest="IAH", dep_delay=20)
    row = connection.execute("SELECT id, decision_time FROM timetable").fetchone()
    assert row == ("UA-1-JFK-2013-01-01T10Z", datetime(2013, 1, 1, 8, 15))
    row = connection.execute("SELECT known_at, left_late FROM departures").fetchone()
    assert row == (datetime(2013, 1, 1, 10, 35), 1)


def test_a_cancelled_or_diverted_flight_has_no_outcome(connection: duckdb.DuckDBPyConnection) -> None:
    add_flight(connection, time_hour="2013-01-01 10:00", minute=15, dest="IAH", sched_arr_time=819)
    add_flight(connection, time_hour="2013-01-02 10:00", minute=15, dest="IAH", sched_arr_time=819, dep_delay=5)
    assert connection.execute("SELECT count(*) FROM outcomes").fetchall() == [(0,)]


def test_the_queue_holds_a_flight_from_its_schedule_until_it_leaves(
    connection: duckdb.DuckDBPyConnection, problem: Problem
) -> None:
    add_flight(connection, flight="1", time_hour="2013-01-01 15:00", minute=0, dest="IAH", dep_delay=30)
    add_flight(connection, flight="2", time_hour="2013-01-01 15:00", minute=10, dest="IAH", dep_delay=-3)
    add_flight(connection, flight="3", time_hour="2013-01-01 15:00", minute=20, dest="IAH", dep_delay=None)
    add_flight(connection, flight="4", time_hour="2013-01-02 06:00", minute=0, dest="IAH", dep_delay=200)
    statement = sql.statement(problem, view_file(problem, "origin_queue"))
    rows = connection.execute(f"SELECT event_timestamp, origin_overdue FROM ({statement}) ORDER BY 1").fetchall()
    assert [(moment.strftime("%d %H:%M"), overdue) for moment, overdue in rows] == [
        ("01 15:00", 1),
        ("01 15:20", 2),
        ("01 15:30", 1),
        ("01 19:20", 0),  # cancelled, or not: given up after four hours
        ("02 06:00", 1),
        ("02 08:00", 0),  # the operating day ends
    ]


def test_weather_is_known_after_its_hour(connection: duckdb.DuckDBPyConnection, problem: Problem) -> None:
    for hour, pressure, precip in ((0, 1010.0, 0.01), (1, 1011.0, 0.02), (3, 1008.0, 0.0), (6, 1001.0, 0.4)):
        connection.execute(
            "INSERT INTO weather (origin, time_hour, pressure, precip) VALUES ('JFK', ?, ?, ?)",
            [datetime(2013, 1, 1, hour), pressure, precip],
        )
    statement = sql.statement(problem, view_file(problem, "weather"))
    columns = "event_timestamp, pressure_change_3h, precip_6h"
    rows = connection.execute(f"SELECT {columns} FROM ({statement}) ORDER BY 1").fetchall()
    assert [(moment.hour, change, rain) for moment, change, rain in rows] == [
        (1, None, 1),
        (2, None, 3),
        (4, -2.0, 3),
        (7, -7.0, 42),  # the rain of midnight's hour has left the window
    ]


def schedule(problem: Problem, decision: str, departs: float, arrives: float) -> dict[str, float]:
    columns = {
        "decision_time": np.array([decision], dtype="datetime64[us]"),
        "sched_dep_time": np.array([departs]),
        "sched_arr_time": np.array([arrives]),
    }
    return {name: float(values[0]) for name, values in compute_request_features(problem, columns, 1).items()}


@pytest.mark.parametrize(
    ("decision", "departs", "weekday"),
    [
        ("2013-01-01T08:15", 515, 1),  # a Tuesday
        ("2013-01-02T02:59", 2359, 1),  # still Tuesday in New York, Wednesday in UTC
        ("2013-07-27T03:06", 106, 5),  # Saturday, in summer
        ("2013-07-28T01:59", 2359, 5),
        ("2013-03-10T17:00", 1500, 6),  # the Sundays that clocks change
        ("2013-11-03T18:00", 1500, 6),
        ("2013-11-03T08:30", 530, 6),
    ],
)
def test_the_weekday_is_in_new_york_time(problem: Problem, decision: str, departs: float, weekday: int) -> None:
    assert schedule(problem, decision, departs, 1000)["weekday"] == weekday


def test_clock_times_are_minutes_and_cross_midnight(problem: Problem) -> None:
    features = schedule(problem, "2013-01-02T01:30", 2230, 15)
    assert (features["departs_minute"], features["arrives_minute"], features["clock_minutes"]) == (1350, 15, 105)


def test_a_missing_clock_time_is_missing(problem: Problem) -> None:
    features = schedule(problem, "2013-01-02T01:30", np.nan, 15)
    assert [name for name, value in features.items() if np.isnan(value)] == [
        "departs_minute", "clock_minutes", "weekday",
    ]  # fmt: skip
    assert np.isnan(schedule(problem, "NaT", 515, 15)["weekday"])
