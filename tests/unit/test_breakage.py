"""What broke is told by values of one kind that never were: not by the first hot days, and in spite of them."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from truecourse.loading import load_problem
from truecourse.monitoring import breakage
from truecourse.monitoring.frozen import Frozen
from truecourse.monitoring.sketches import Sketch
from truecourse.monitoring.strange import Strange

PROBLEM = load_problem("flight_delays")
START = datetime(2024, 4, 1)


def day(number: int, rows: int, like: str, alike: int, name: str = "temp") -> Sketch:
    """Of a thousand rows so many have a value of `name` that training never saw, and one kind tells of `alike`."""
    odd = {name: Strange(rows=rows, like=like, alike=alike)} if rows else {}
    return Sketch(digest="", day=START + timedelta(days=number), rows=1000, features=(), scores=(), odd=odd)


def told(before: list[Sketch], newest: Sketch, held_out: float = 0.0) -> list[tuple[str, str]]:
    frozen = cast(Frozen, SimpleNamespace(odd={"temp": held_out, "carrier": held_out}))
    return [(one.subject, one.cause) for one in breakage._odd(PROBLEM, before, frozen, newest)]


HOT = [day(number, 640 if number % 3 else 0, "c_to_f", 40) for number in range(28)]


@pytest.mark.parametrize("before", [[], HOT], ids=["mild weeks", "the first hot weeks"])
def test_a_unit_is_known_by_what_brings_its_values_back_whatever_the_weather_was(before: list[Sketch]) -> None:
    assert told(before, day(35, 990, "f_to_c", 990)) == [("temp", "unit change")]
    assert told(before, day(35, 700, "c_to_f", 41)) == []


def test_what_was_there_before_is_no_finding() -> None:
    converted = [day(number, 900, "f_to_c", 900) for number in range(28)]
    assert told(converted, day(35, 990, "f_to_c", 990)) == []
    assert told([], day(35, 990, "f_to_c", 990), held_out=0.5) == []
    new = day(35, 30, "ZZ", 30, "carrier")
    assert told([], new) == [("carrier", "new category")]
    assert told([day(3, 20, "YY", 20, "carrier")], new) == []


def test_what_is_computed_from_a_missing_value_is_told_with_it() -> None:
    dead = {"pressure": (1.0, 0.2), "pressure_change_3h": (1.0, 0.1)}
    one = breakage._told_dead("pressure", list(dead), dead)
    assert one.sentence == "pressure, pressure_change_3h are missing: 15.0% of rows have a value, where 100% had one."
    view = breakage._told_dead(
        "weather", ["temp", "dewp", "wind_dir", "wind_speed"], dict.fromkeys(PROBLEM.features, (1, 0))
    )
    assert view.sentence.startswith("weather (temp, dewp, wind_dir ...) are missing: 0.0% of rows")
