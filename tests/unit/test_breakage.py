"""Broken data is detected by value types that never occurred before, whatever the weather does."""

from datetime import datetime, timedelta

import pytest

from truecourse.monitoring.drift import breakage
from truecourse.monitoring.drift.daily_counts import DayCounts
from truecourse.monitoring.drift.unseen_values import UnseenValues
from truecourse.problem.loader import load_problem

PROBLEM = load_problem("flight_delays")
START = datetime(2024, 4, 1)


def day(number: int, rows: int, like: str, alike: int, name: str = "temp") -> DayCounts:
    """A thousand rows; a given number has an unseen value in `name`, and one type of value occurs in `alike`."""
    odd = {name: UnseenValues(rows=rows, like=like, alike=alike)} if rows else {}
    return DayCounts(digest="", day=START + timedelta(days=number), rows=1000, features=(), scores=(), sums=(), odd=odd)


def find_causes(before: list[DayCounts], newest: DayCounts, held_out: float = 0.0) -> list[tuple[str, str]]:
    ever = {"temp": held_out, "carrier": held_out}
    recent = [one for one in before if one.day > newest.day - timedelta(days=7)]
    return [(one.subject, one.cause) for one in breakage.find_unseen_values(PROBLEM, before, recent, ever, newest)]


HOT = [day(number, 640 if number % 3 else 0, "c_to_f", 40) for number in range(28)]


@pytest.mark.parametrize("before", [[], HOT], ids=["mild weeks", "the first hot weeks"])
def test_a_unit_change_is_identified_by_the_conversion_that_reverts_it(before: list[DayCounts]) -> None:
    assert find_causes(before, day(35, 990, "f_to_c", 990)) == [("temp", "unit change")]
    assert find_causes(before, day(35, 700, "c_to_f", 41)) == []


def test_a_pre_existing_condition_is_not_a_finding() -> None:
    converted = [day(number, 900, "f_to_c", 900) for number in range(28)]
    assert find_causes(converted, day(35, 990, "f_to_c", 990)) == []
    assert find_causes([], day(35, 990, "f_to_c", 990), held_out=0.5) == []
    new = day(35, 30, "ZZ", 30, "carrier")
    assert find_causes([], new) == [("carrier", "new category")]
    assert find_causes([day(3, 20, "YY", 20, "carrier")], new) == [("carrier", "new category")]
    assert find_causes([day(3, 20, "ZZ", 20, "carrier")], new) == []


def test_features_computed_from_a_missing_value_share_its_finding() -> None:
    dead = {"pressure": (1.0, 0.2), "pressure_change_3h": (1.0, 0.1)}
    one = breakage.missing_finding("pressure", list(dead), dead, "dead feed", START)
    sentence = "pressure, pressure_change_3h are missing on 2024-04-01: 15.0% of rows have a value, 100% usually do."
    assert one.sentence == sentence
    whole = ["temp", "dewp", "wind_dir", "wind_speed"]
    view = breakage.missing_finding("weather", whole, dict.fromkeys(PROBLEM.features, (1, 0)), "dead feed", START)
    assert view.sentence.startswith("weather (temp, dewp, wind_dir ...) are missing on 2024-04-01: 0.0% of rows")


def test_a_category_in_half_a_percent_of_rows_is_found_on_any_day_of_its_week() -> None:
    for days in range(1, 8):
        before = [day(number, 0, "", 0) for number in range(28)]
        before += [day(28 + number, 5, "ZZ", 5, "carrier") for number in range(days - 1)]
        assert find_causes(before, day(28 + days - 1, 5, "ZZ", 5, "carrier")) == [("carrier", "new category")], days
    # Where a day has too few of it, the days of the week together have enough.
    thin = [day(28 + number, 1, "ZZ", 1, "carrier") for number in range(3)]
    assert find_causes(thin[:-1], thin[-1]) == []
    strong = [one.model_copy(update={"rows": 300}) for one in thin]
    assert find_causes(strong[:-1], strong[-1]) == [("carrier", "new category")]


def test_each_day_is_checked_once_and_small_days_are_merged() -> None:
    def of(*rows: int) -> list[DayCounts]:
        return [day(number, 0, "", 0).model_copy(update={"rows": count}) for number, count in enumerate(rows)]

    now = START + timedelta(days=4, hours=6)
    look = breakage.select_days(of(900, 30, 10, 900, 20), START + timedelta(days=1), now)
    assert [(unit.day.day, unit.rows) for unit in look.groups] == [(4, 940)]
    assert (look.until, look.fresh, look.missing) == (START + timedelta(days=4), True, 30)
    part = breakage.select_days(of(900, 900, 900, 900, 200), START + timedelta(days=2), now)
    assert [(unit.day.day, unit.rows) for unit in part.groups] == [(3, 900), (4, 900), (5, 200)]
    assert part.until == START + timedelta(days=4)
    again = breakage.select_days(of(900, 900, 900, 900, 20), START + timedelta(days=4), now)
    assert [(unit.rows, again.fresh, again.until) for unit in again.groups] == [(920, False, None)]


def test_lost_volume_is_reported_for_whole_days_and_empty_days() -> None:
    usual = [day(number, 0, "", 0) for number in range(30)]

    def volume_findings(counts: dict[int, int], hours: int) -> list[str]:
        days = [one.model_copy(update={"rows": counts.get(i, 1000)}) for i, one in enumerate(usual)]
        days = [one for one in days if one.rows]
        now = START + timedelta(hours=hours)
        return [
            one.figures["day"] for one in breakage.find_volume_changes(PROBLEM, days, START + timedelta(days=20), now)
        ]

    assert volume_findings({}, 30 * 24) == []
    assert volume_findings({29: 200}, 30 * 24 + 6) == ["2024-04-30"]
    assert volume_findings({29: 200}, 29 * 24 + 6) == [], "the day is not over"
    assert volume_findings({25: 0}, 29 * 24) == ["2024-04-26"]


def test_a_reported_category_does_not_hide_another() -> None:
    both = UnseenValues(rows=9, like="TVC", alike=5, values={"TVC": 5, "ZZ": 4})
    before = [day(number, 5, "TVC", 5, "carrier") for number in range(28)]
    newest = day(28, 9, "TVC", 5, "carrier").model_copy(update={"odd": {"carrier": both}})
    (one,) = breakage.find_unseen_values(PROBLEM, before[:3], [], {}, newest)
    assert one.figures["value"] == "ZZ"
