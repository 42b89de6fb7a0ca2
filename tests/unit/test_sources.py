"""Parsing of cells, and finding files."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from truecourse.data.parsing import parse_batch, read_cells
from truecourse.problem import Boolean, Float, Integer, Text, Time


def moment(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, micro: int = 0
) -> datetime:
    return datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "texts", "values", "lost"),
    [
        (Integer(), ["3", "+4", "5.0", " 6 ", None], [3, 4, 5, 6, None], {}),
        (Integer(), ["3.5", "x", "9" * 20, "1"], [None, None, None, 1], {0: "3.5", 1: "x", 2: "9" * 20}),
        (Float(), ["1e3", "-.5", "nan", "1,5"], [1000.0, -0.5, None, None], {3: "1,5"}),
        (Boolean(), ["true", "FALSE", "1", "0", "yes"], [True, False, True, False, None], {4: "yes"}),
        (Text(), ["a", "", None], ["a", "", None], {}),
        (
            Time(),
            ["2024-05-01", "2024-05-01 10:30", "2024-05-01T10:30:00.1234567+02:00", "2024-02-31", "soon"],
            [moment(2024, 5, 1), moment(2024, 5, 1, 10, 30), moment(2024, 5, 1, 8, 30, 0, 123456), None, None],
            {3: "2024-02-31", 4: "soon"},
        ),
    ],
)
def test_cells_that_do_not_parse_are_kept(
    column: Any, texts: list[str], values: list[Any], lost: dict[int, str]
) -> None:
    array, failed = read_cells(pa.array(texts, pa.string()), column)
    assert array.to_pylist() == values
    assert failed == lost


@pytest.mark.parametrize(
    ("column", "array", "values"),
    [
        (Integer(), pa.array([1.0, None], pa.float64()), [1, None]),
        (Integer(), pa.array([1, 2], pa.int8()), [1, 2]),
        (Text(), pa.array([1, 2]), ["1", "2"]),
        (Text(), pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (Boolean(), pa.array([0, 1]), [False, True]),
        (Time(), pa.array([date(2024, 5, 1)]), [moment(2024, 5, 1)]),
        (Time(), pa.array([1_000], pa.timestamp("ns")), [moment(1970, 1, 1, 0, 0, 0, 1)]),
        (Time(), pa.array([0], pa.timestamp("s", "Europe/Rome")), [moment(1970, 1, 1)]),
    ],
)
def test_arrow_types_are_mapped_by_meaning(column: Any, array: Any, values: list[Any]) -> None:
    found, failed = read_cells(array, column)
    assert found.to_pylist() == values
    assert not failed


def test_a_fraction_is_not_truncated_to_an_integer() -> None:
    found, failed = read_cells(pa.array([1.0, 2.5]), Integer())
    assert found.to_pylist() == [1, None]
    assert failed == {1: "2.5"}


def test_one_invalid_cell_loses_only_itself() -> None:
    texts = [str(n) for n in range(50_000)]
    texts[31_337] = str(2**64)
    batch = parse_batch({"n": pa.array(texts)}, {"n": Integer()})
    assert batch.column("n").null_count == 1
    assert batch.column("_tc_unreadable")[31_337].as_py() == f'{{"n": "{2**64}"}}'
