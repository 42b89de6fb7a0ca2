"""`truecourse check` rejects look-ahead that the SQL alone proves, and accepts valid SQL."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated_deliveries import install
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.problem.loader import load_problem

VIEW = "features/courier_history.sql"
SPINE = "spine.sql"
WEEK = "PARTITION BY courier ORDER BY known_at RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW"
COUNT = "sum(count(*)) OVER week AS courier_count_7d"


DECISIONS = "SELECT delivery AS id, ordered_at AS decision_time, courier, depot, promised, distance FROM deliveries"
JOINED = "SELECT a.delivery AS id, a.ordered_at AS decision_time, a.courier, a.depot,"
LEAD = "lead(took) OVER (PARTITION BY courier ORDER BY ordered_at)"


def windowed(window: str) -> tuple[str, str, str]:
    return VIEW, WEEK, window


def counted(expression: str) -> tuple[str, str, str]:
    return VIEW, COUNT, f"CAST({expression} AS BIGINT) AS courier_count_7d"


LOOKAHEADS = {
    "90 days following": (
        windowed("PARTITION BY courier ORDER BY known_at RANGE BETWEEN CURRENT ROW AND INTERVAL 90 DAY FOLLOWING"),
        f"{VIEW}:", "includes later rows"),
    "unbounded following": (
        windowed("PARTITION BY courier ORDER BY known_at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"),
        f"{VIEW}:", "includes later rows"),
    "newest first, preceding rows": (
        windowed("PARTITION BY courier ORDER BY known_at DESC ROWS BETWEEN 5 PRECEDING AND CURRENT ROW"),
        f"{VIEW}:", "includes later rows"),
    "whole partition": (
        counted("sum(count(*)) OVER (PARTITION BY courier)"), f"{VIEW}:3", "every row of its partition"),
    "all rows": (counted("sum(count(*)) OVER ()"), f"{VIEW}:3", "every row of its partition"),
    "lead": (
        counted("lead(count(*)) OVER (PARTITION BY courier ORDER BY known_at)"), f"{VIEW}:3", "a later row"),
    "lag, newest first": (
        counted("lag(count(*)) OVER (PARTITION BY courier ORDER BY known_at DESC)"), f"{VIEW}:3", "a later row"),
    "lag by a negative offset": (
        counted("lag(count(*), -1) OVER (PARTITION BY courier ORDER BY known_at)"), f"{VIEW}:3", "a later row"),
    "now": (counted("date_diff('day', known_at, now()::TIMESTAMP)"), f"{VIEW}:3", "NOW() reads the system clock"),
    "current_date": (counted("current_date - CAST(known_at AS DATE)"), f"{VIEW}:3", "clock"),
    "current_timestamp": (counted("year(current_timestamp)"), f"{VIEW}:3", "clock"),
    "get_current_timestamp": (counted("year(get_current_timestamp())"), f"{VIEW}:3", "clock"),
    "today": (counted("year(today())"), f"{VIEW}:3", "clock"),
    "age of one": (counted("date_part('day', age(known_at))"), f"{VIEW}:3", "clock"),
    "random": (counted("random() * 10"), f"{VIEW}:3", "another value on each run"),
    "a sample": ((VIEW, "FROM outcomes", "FROM outcomes TABLESAMPLE 10 PERCENT"), VIEW, "another value on each run"),
    "the mean of all": (
        counted("max((SELECT sum(late) FROM outcomes))"), f"{VIEW}:3", "aggregates all rows"),
    "a clock in the spine": (
        (SPINE, "promised, distance", "minute(now()) AS promised, distance"), f"{SPINE}:1", "clock"),
    "a count in the spine": (
        (SPINE, "promised, distance", "count(*) OVER (PARTITION BY courier) AS promised, distance"),
        f"{SPINE}:1", "every row of its partition"),
    "a clock in the label": (("label.sql", "late AS label", "minute(now()) % 2 AS label"), "label.sql:1", "clock"),
    "a relation with lead": (
        ("outcomes.sql", "took, CAST", f"{LEAD} AS took, CAST"), "outcomes.sql:2", "a later row"),
    "a later row joined": (
        (SPINE, DECISIONS, f"""{JOINED} min(b.promised) AS promised, a.distance
         FROM deliveries a LEFT JOIN deliveries b ON a.courier = b.courier AND b.ordered_at > a.ordered_at
         GROUP BY ALL"""),
        f"{SPINE}:2", "later than decision_time"),
}  # fmt: skip

VALID = {
    "lead, newest first": counted("lead(count(*)) OVER (PARTITION BY courier ORDER BY known_at DESC)"),
    "lag": counted("lag(count(*)) OVER (PARTITION BY courier ORDER BY known_at)"),
    "rows of one time": counted("sum(count(*)) OVER (PARTITION BY courier, known_at)"),
    "the default frame": windowed("PARTITION BY courier ORDER BY known_at"),
    "age of two": counted("date_part('day', age(known_at, max(ordered)))"),
    "following for the label alone": ("outcomes.sql", "AS known_at", f"AS known_at, {LEAD} AS next"),
    "an earlier row joined": (
        SPINE, "FROM deliveries",
        "FROM (SELECT a.* FROM deliveries a LEFT JOIN couriers b ON a.courier = b.courier) AS deliveries"),
    "numbers of rows in a named window": windowed(
        f"{WEEK}), one AS (PARTITION BY courier) QUALIFY 1 = row_number() OVER (one ORDER BY known_at"),
    "a static count": ("features/courier_facts.sql", "vehicle, since", "vehicle, count(*) OVER () AS since"),
    "a bound subquery": counted(
        "max((SELECT sum(late) FROM outcomes WHERE known_at < TIMESTAMP '2023-12-01'))"),
    "earlier rows of the same table": (
        SPINE, DECISIONS, f"""{JOINED} a.promised, max(b.distance) AS distance
        FROM deliveries a JOIN deliveries b ON a.courier = b.courier
        AND b.ordered_at <= a.ordered_at AND b.ordered_at > a.ordered_at - INTERVAL 7 DAY GROUP BY ALL"""),
}  # fmt: skip


def faults(tmp_path: Path, configure: Callable[..., None], file: str, old: str, new: str) -> list[tuple[str, str]]:
    configure(problems=tmp_path, problem="deliveries")
    path = install(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if "max(ordered)" in new:
        path.write_text(path.read_text().replace("FROM outcomes", "FROM (SELECT *, known_at AS ordered FROM outcomes)"))
    return [(fault.where, fault.what) for fault in check_problem(load_problem("deliveries"))]


@pytest.mark.parametrize("name", list(LOOKAHEADS))
def test_look_ahead_is_rejected(name: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    edit, where, what = LOOKAHEADS[name]
    found = faults(tmp_path, configure, *edit)
    assert any(place.startswith(where) and what in message for place, message in found), found


def test_a_named_window_is_one_fault_however_often_it_is_used(tmp_path: Path, configure: Callable[..., None]) -> None:
    found = faults(tmp_path, configure, *windowed("PARTITION BY courier"))
    what = (
        "WINDOW week AS (PARTITION BY outcomes.courier): a window without ORDER BY includes every row of its partition"
    )
    assert found == [(f"{VIEW}:6", f"{what}, later ones too")]


@pytest.mark.parametrize("name", list(VALID))
def test_valid_sql_is_accepted(name: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    assert faults(tmp_path, configure, *VALID[name]) == []
