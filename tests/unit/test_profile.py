"""Building blocks of `truecourse init`: ranges with a margin, table names, values as Python source."""

import ast
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from truecourse.authoring.scaffold.margins import with_margin
from truecourse.authoring.scaffold.profile import table_name
from truecourse.authoring.scaffold.source_writer import Call, call_names, entry, literal
from truecourse.modeling.encoding import Vocabulary


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.integers(-(2**63) + 1, 2**63 - 1))
def test_an_integer_range_includes_the_observed_values(one: int, other: int) -> None:
    low, high = sorted((one, other))
    least, most = with_margin(low, high)
    assert isinstance(least, int)
    assert least <= low <= high <= most


REAL = st.floats(allow_nan=False, allow_infinity=False)


@example(1e307, 1.7e308)  # a margin would leave what a float can hold
@given(REAL, REAL)
def test_a_float_range_includes_the_observed_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    least, most = with_margin(low, high)
    assert -math.inf < least <= low <= high <= most < math.inf


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 59, (0, 120)), (-43, 1301, (-1400, 2700)), (0.5, 0.75, (0.25, 1.0)), (7, 7, (0, 14)), (-9, -1, (-17, 0))],
)
def test_margins_are_round(low: float, high: float, expected: tuple[float, float]) -> None:
    assert with_margin(low, high) == expected


@pytest.mark.parametrize(
    ("file", "name"),
    [("Sales 2024.csv.zip", "sales_2024"), ("1st.parquet", "table_1st"), ("größe.csv", "gr__e"), ("!.csv", "table")],
)
def test_a_table_is_named_by_its_file(file: str, name: str) -> None:
    assert table_name(file) == name


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_as_source(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"), max_size=300))
def test_any_comment_stays_a_comment(key: str, note: str) -> None:
    call = Call("Text", (), {"one_of": ["x" * 50] * 3})
    tree = ast.parse("{\n" + entry(f"    {literal(key)}: ", call, note) + "\n}", mode="eval").body
    assert isinstance(tree, ast.Dict)
    assert [ast.literal_eval(k) for k in tree.keys if k] == [key]
    assert call_names({key: [call]}) == {"Text"}


def test_names_that_xgboost_rejects_are_encoded_uniquely() -> None:
    names = ["a", "a[1]", "a<1>", "a%5B1]", "größe"]
    encoded = Vocabulary(kinds=dict.fromkeys(names, "float"), categories={}).booster_names
    assert encoded[0] == "a"
    assert not any(set("[]<") & set(name) for name in encoded)
    assert len(set(encoded)) == len(names)
