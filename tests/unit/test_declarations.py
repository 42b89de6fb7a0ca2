"""Detection of number and time formats in a column of texts."""

import pytest

from truecourse.authoring.scaffold.declarations import (
    Dialect,
    candidates,
    detect_dialect,
    is_code,
    parse_numbers,
    propose_markers,
)
from truecourse.authoring.scaffold.time_formats import detect_time_formats, epoch_format, swap_day_month
from truecourse.problem.schema import Float, Integer, Time


@pytest.mark.parametrize(
    ("texts", "decimal", "thousands", "symbol"),
    [
        (["54,15", "59,86"], ",", "", ""),
        (["1,234", "56", "12,345"], ".", ",", ""),
        (["1.234,56 €", "12 €"], ",", ".", "€"),
        (["$1,234.50", "$5"], ".", ",", "$"),
        (["-$5.00", "$3"], ".", "", "$"),
        (["12.5 %", "3 %"], ".", "", "%"),
        (["1 234", "5"], ".", " ", ""),
        (["1'234.5", "7"], ".", "'", ""),
        (["74 bhp", "81 bhp"], ".", "", "bhp"),
        (["USD 5", "USD 7"], ".", "", "USD"),
        (["1,234,567", "1"], ".", ",", ""),
        (["0,125", "0,250"], ",", "", ""),
        ([f"{n},500" for n in range(1, 30)], ",", "", ""),
    ],
)
def test_numbers(texts: list[str], decimal: str, thousands: str, symbol: str) -> None:
    found = parse_numbers(texts)
    assert found is not None
    assert (found.dialect.decimal, found.dialect.thousands, found.symbol) == (decimal, thousands, symbol)


@pytest.mark.parametrize(
    "texts", [["C001", "C002"], ["12-34", "1-2"], ["red", "blue"], ["2024-01-01"], ["1.2.3", "1.2.4"]]
)
def test_texts_that_are_not_numbers(texts: list[str]) -> None:
    assert parse_numbers(texts) is None


def test_a_file_has_one_dialect() -> None:
    assert detect_dialect([["1,5", "2,5"], ["1.234", "5.678"], ["1", "2"]]) == Dialect(",", ".")
    assert detect_dialect([["1.5", "2.5"], ["1,234", "5"]]).thousands == ","
    assert detect_dialect([["1", "2"], ["red"]]) == Dialect()


@pytest.mark.parametrize(
    ("texts", "formats"),
    [
        (["31/01/2024", "01/02/2024"], ["%d/%m/%Y"]),
        (["01/02/2024 3:15 PM"], ["%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"]),
        (["20240131"], ["%Y%m%d"]),
        (["Jan 1 2000"], ["%b %d %Y"]),
        (["31.12.2023 14:05"], ["%d.%m.%Y %H:%M"]),
        (["10/Oct/2000:13:55:36 +0000"], ["%d/%b/%Y:%H:%M:%S %z"]),
        (["2024-01"], ["%Y-%m"]),
        (["2013", "2014"], []),
        (["12:30"], []),
        (["192.168.0.1"], []),
        (["555-12-3456"], []),
        (["1990-1991"], []),
        (["12.5", "13.5"], []),
    ],
)
def test_time_formats_are_detected(texts: list[str], formats: list[str]) -> None:
    assert detect_time_formats(texts) == formats


def test_epochs_need_a_time_like_name() -> None:
    texts = [str(1700000000 + n) for n in range(50)]
    assert candidates("created_at", texts, Dialect())[0] == Time(format="epoch_s")
    assert candidates("amount", texts, Dialect()) == [Integer(), Float()]
    assert epoch_format(1700000000000, 1700000100000) == "epoch_ms"
    assert epoch_format(2013, 2020) is None


def test_codes_and_markers() -> None:
    assert [is_code(text) for text in ("D100", "12B", "AB-7", "12", "1e5", "red", "12kg")] == [True] * 3 + [False] * 4
    assert propose_markers(["1", "2", "nil", "?", "red"]) == {"nil", "?"}
    assert propose_markers([*map(str, range(30)), "absent", "absent"]) == {"absent"}
    assert propose_markers([*map(str, range(30)), "oops"]) == frozenset()
    assert swap_day_month("%d/%m/%Y") == "%m/%d/%Y"
    assert swap_day_month("%Y-%m-%d") is None
