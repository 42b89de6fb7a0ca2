"""Deliveries that are refused, or have unreadable cells: earlier rows stay, and no other delivery is blocked."""

import dataclasses
import json

import pyarrow.compute as pc
import pytest

from tests.one_table import CASES, COLUMNS, HEAD, World, count_rows, write_lines
from truecourse.data import validation_report
from truecourse.data.validation_report import require_accepted
from truecourse.errors import SourceError, ValidationFailed
from truecourse.problem import Boolean, Float, Integer, Text
from truecourse.storage.delta_tables import Tables


def test_a_refused_delivery_is_replaced_by_the_corrected_file(world: World) -> None:
    """Case 20: no row of the bad file remains, and no row of the good file is quarantined."""
    folder = CASES / "20-refused-then-fixed"
    world.declare(columns={"id": Integer(), **COLUMNS}, key=("id",))
    refused = world.feed(folder / "bad.csv")
    assert refused.clean is None
    assert not world.rows()
    with pytest.raises(ValidationFailed, match="40 of 400") as caught:
        require_accepted("small", [refused])
    assert "Correct the file in the same place and run again" in caught.value.hint
    again = world.run()
    assert (again.validated, len(again.refused), again.faults) == ((), 1, []), (
        "the refusal remains, and is no new fault"
    )
    result = world.feed(folder / "good.csv")
    assert count_rows(result) == [(400, 400, 0, 0, 0, 0)]
    assert result.refused == ()
    assert len(world.rows()) == 400


def test_a_truncated_upload_is_refused_and_the_rows_stay(world: World) -> None:
    """Case 20: truncated.csv is the beginning of good.csv. With a key it would remove no row."""
    folder = CASES / "20-refused-then-fixed"
    for options in ({"key": ("id",)}, {"key": (), "combine": "replace"}):
        world.problem = dataclasses.replace(world.problem, name=f"small{len(options)}")
        world.declare(columns={"id": Integer(), **COLUMNS}, **options)
        world.feed(folder / "good.csv")
        result = world.feed(folder / "truncated.csv")
        assert "cut short" in result.faults[0]
        assert result.clean is not None
        current = Tables().read(result.clean, filter=pc.field("_tc_superseded_at").is_null())
        assert len(current) == 400
        assert world.feed(folder / "good.csv").refused == ()


def test_a_refusal_blocks_no_other_delivery(world: World) -> None:
    world.put(write_lines(1, 2), "sales-1.csv")
    world.put(HEAD + "x,y,red,z\n" * 3, "sales-2.csv")
    world.put(write_lines(3, 4), "sales-3.csv")
    result = world.run()
    assert [bool(one.refused) for one in result.validated] == [False, True, False]
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4]
    assert len(result.faults) == 1
    assert "sales-2.csv" in result.faults[0]
    world.feed(write_lines(5), "sales-4.csv")
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4, 5]
    world.feed(write_lines(6), "sales-2.csv")
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4, 5, 6]
    assert world.run().refused == ()


def test_a_refused_delivery_is_checked_again_when_the_declaration_changes(world: World) -> None:
    rows = "".join(f"{n}.5,{n},{'red' if n % 2 else 'puce'},1\n" for n in range(10))
    world.declare(columns=COLUMNS | {"colour": Text(one_of=["red"])})
    assert world.feed(HEAD + rows).refused
    assert world.run().validated == ()
    world.declare(max_quarantined=0.6)
    result = world.run()
    assert count_rows(result) == [(10, 5, 0, 0, 0, 5)]
    assert result.refused == ()


def test_limits_apply_to_each_delivery(world: World) -> None:
    """160 invalid rows of 300 are too many, even beside 21,340 valid rows of an earlier delivery."""
    world.feed(write_lines(*range(21_340)), "sales-1.csv")
    bad = "".join("1.5,none,red,1\n" for _ in range(160))
    result = world.feed(write_lines(*range(140)) + bad, "sales-2.csv")
    assert "160 of 300 rows are invalid (53.3%)" in result.faults[0]
    assert result.validated[0].share == pytest.approx(160 / 300)


def test_unreadable_columns_are_refused_whatever_their_severity(world: World) -> None:
    """Case 14: decimals with a comma and decimals in an Integer column, both declared `info` and nullable."""
    folder = CASES / "14-late-type-change"
    loose = {"weight": Float(nulls=True, severity="info"), "visits": Integer(nulls=True, severity="info")}
    world.declare(columns=COLUMNS | loose)
    assert count_rows(world.feed(folder / "delivery1.csv"))[0][1] == 400
    result = world.feed(folder / "delivery2.csv")
    (refused,) = result.refused
    assert "weight: 400 of 400 cells cannot be read as a number" in refused.refused[0]
    assert "'54,15'" in refused.refused[0]
    assert "'29.5'" in refused.refused[1]
    assert refused.rows.unreadable == 800
    assert len(world.rows()) == 400
    assert all(row["weight"] is not None for row in world.rows())
    raw = Tables().version("tables/small/raw/sales")
    assert raw is not None
    kept = Tables().read(raw, filter=pc.field("_tc_row") == 400)["_tc_unreadable"].to_pylist()
    assert json.loads(kept[0]) == {"weight": "54,15", "visits": "29.5"}


def test_a_few_unreadable_cells_are_kept_as_missing_or_quarantined_and_counted(world: World) -> None:
    world.declare(columns=COLUMNS | {"weight": Float(nulls=True, severity="info"), "visits": Integer(severity="info")})
    rows = write_lines(*range(98)) + "heavy,98,red,1\n1.5,many,red,1\n"
    (result,) = world.feed(rows).validated
    assert (result.rows.unreadable, result.rows.quarantined, result.rows.inserted) == (2, 1, 99)
    assert world.rows()[98]["weight"] is None
    outcomes = {(o.column, o.severity, o.failed) for o in result.failing if o.name == "type"}
    assert outcomes == {("weight", "warning", 1), ("visits", "warning", 1)}
    page = validation_report.render_page("small", [result])
    assert "kept, as missing" in page


def test_a_delivery_that_removes_most_rows_is_refused(world: World) -> None:
    world.feed(write_lines(*range(10)))
    result = world.feed(write_lines(3, 4))
    assert "removes 8 of 10 rows" in result.faults[0]
    assert len(world.rows()) == 10
    world.declare(max_removed=0.9)
    assert world.run().refused == ()
    assert [row["visits"] for row in world.rows()] == [3, 4]


def test_a_table_with_too_few_rows_waits_for_more(world: World) -> None:
    world.declare(rows=(3, 5))
    assert "would have 2 rows" in world.feed(write_lines(1, 2), "sales-1.csv").faults[0]
    assert world.feed(write_lines(3, 4), "sales-2.csv").refused == ()
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4]
    assert "would have 6 rows" in world.feed(write_lines(5, 6), "sales-3.csv").faults[0]


def test_a_new_column_that_may_not_be_missing_changes_nothing(world: World) -> None:
    world.feed(write_lines(1, 2))
    version = Tables().version("tables/small/raw/sales")
    world.declare(columns=COLUMNS | {"extra": Text()})
    with pytest.raises(SourceError, match="no column 'extra'") as caught:
        world.run()
    assert "nulls=True" in caught.value.hint
    assert Tables().version("tables/small/raw/sales") == version
    world.declare(columns=COLUMNS | {"colour": Boolean()})
    world.ingest()
    with pytest.raises(ValidationFailed, match="accepted before would be refused"):
        world.validate()
    assert [row["colour"] for row in world.rows()] == ["red", "red"]
    world.declare(columns=COLUMNS)
    world.run()
    assert [row["colour"] for row in world.rows()] == ["red", "red"]
