"""Deliveries are checked one by one: replaced, removed, refused, moved, copied and read again."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from tests.one_table import COLUMNS, World
from truecourse.data import deliveries, validation_report
from truecourse.data.validation_report import TableResult, require_accepted
from truecourse.errors import SourceError, ValidationFailed
from truecourse.features.frame import add_split
from truecourse.problem import Boolean, Float, Integer, Objects, Sql, Text, Time
from truecourse.registry.lineage_record import verify_sources
from truecourse.storage.delta_tables import Tables, clean_table

DATA = Path(__file__).parents[1] / "data" / "cases"


def counts(result: TableResult) -> list[tuple[int, ...]]:
    names = ("rows_in", "inserted", "corrected", "unchanged", "removed", "quarantined")
    return [tuple(getattr(one.rows, name) for name in names) for one in result.validated]


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    return World(tmp_path)


HEAD = "weight,visits,colour,bought\n"


def lines(*numbers: int) -> str:
    return HEAD + "".join(f"{n}.5,{n},red,{n % 2}\n" for n in numbers)


def test_a_growing_file_without_key_keeps_its_rows_and_their_split(world: World) -> None:
    """Case 12."""
    folder = DATA / "12-growing-file"
    world.feed(folder / "day1.csv")
    before = add_split(world.problem, world.spine())
    result = world.feed(folder / "day2.csv")
    assert counts(result) == [(440, 40, 0, 400, 0, 0)]
    assert len(world.rows()) == 440
    after = add_split(world.problem, world.spine())
    sides = dict(zip(after["id"].to_pylist(), after["split"].to_pylist(), strict=True))
    assert len(sides) == 440
    # A small table is split by the ranks of a hash: 40 new rows may move a few rows to another split.
    kept = [sides[i] == side for i, side in zip(before["id"].to_pylist(), before["split"].to_pylist(), strict=True)]
    assert kept.count(False) <= 40


def test_a_growing_query_is_treated_as_a_growing_file(
    home: Path, tmp_path: Path, configure: Callable[..., None]
) -> None:
    from sqlalchemy import create_engine, text

    url = f"sqlite:///{tmp_path / 'some.db'}"
    configure(connections=json.dumps({"warehouse": url}))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE sales (weight REAL, visits INTEGER, colour TEXT, bought INTEGER)"))
    world = World(tmp_path, Sql("warehouse", "SELECT * FROM sales ORDER BY visits"))
    for day in range(3):
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO sales VALUES (1.5, {day}, 'red', 1), (1.5, {day}, 'red', 1)"))
        assert counts(world.run()) == [(2 * day + 2, 2, 0, 2 * day, 0, 0)]
    assert len(world.rows()) == 6


def test_equal_rows_are_kept_as_often_as_the_newest_content_has_them(world: World) -> None:
    world.declare(max_removed=1.0)
    world.feed(lines(1, 1, 1, 2))
    assert counts(world.feed(lines(1, 2, 2, 3))) == [(4, 2, 0, 2, 2, 0)]
    assert [row["visits"] for row in world.rows()] == [1, 2, 2, 3]
    assert [row["_tc_row"] for row in world.rows()] == [0, 3, 6, 7]


def test_content_that_is_delivered_again_is_current_again(world: World) -> None:
    """Deliver A, a wrong correction B, and A again, with a key and without."""
    for options in ({"key": ("visits",)}, {"key": (), "combine": "replace"}):
        world.problem = dataclasses.replace(world.problem, name=f"small{len(options)}")
        world.declare(**options, max_removed=1.0)
        for content in (lines(1, 2), lines(1, 2).replace("1.5", "9.5"), lines(1, 2)):
            world.feed(content)
        version = Tables().version(clean_table(world.problem.name, "sales"))
        assert version is not None
        rows = Tables().read(version, filter=pc.field("_tc_superseded_at").is_null()).sort_by("visits")
        assert rows["weight"].to_pylist() == [1.5, 2.5]
        assert world.run().validated == (), "nothing new"


def test_a_refused_delivery_is_replaced_by_the_corrected_file(world: World) -> None:
    """Case 20: no row of the bad file remains, and no row of the good file is quarantined."""
    folder = DATA / "20-refused-then-fixed"
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
    assert counts(result) == [(400, 400, 0, 0, 0, 0)]
    assert result.refused == ()
    assert len(world.rows()) == 400


def test_a_truncated_upload_is_refused_and_the_rows_stay(world: World) -> None:
    """Case 20: truncated.csv is the beginning of good.csv. With a key it would remove no row."""
    folder = DATA / "20-refused-then-fixed"
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
    world.put(lines(1, 2), "sales-1.csv")
    world.put(HEAD + "x,y,red,z\n" * 3, "sales-2.csv")
    world.put(lines(3, 4), "sales-3.csv")
    result = world.run()
    assert [bool(one.refused) for one in result.validated] == [False, True, False]
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4]
    assert len(result.faults) == 1
    assert "sales-2.csv" in result.faults[0]
    world.feed(lines(5), "sales-4.csv")
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4, 5]
    world.feed(lines(6), "sales-2.csv")
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4, 5, 6]
    assert world.run().refused == ()


def test_a_refused_delivery_is_checked_again_when_the_declaration_changes(world: World) -> None:
    rows = "".join(f"{n}.5,{n},{'red' if n % 2 else 'puce'},1\n" for n in range(10))
    world.declare(columns=COLUMNS | {"colour": Text(one_of=["red"])})
    assert world.feed(HEAD + rows).refused
    assert world.run().validated == ()
    world.declare(max_quarantined=0.6)
    result = world.run()
    assert counts(result) == [(10, 5, 0, 0, 0, 5)]
    assert result.refused == ()


def test_limits_apply_to_each_delivery(world: World) -> None:
    """160 invalid rows of 300 are too many, even beside 21,340 valid rows of an earlier delivery."""
    world.feed(lines(*range(21_340)), "sales-1.csv")
    bad = "".join("1.5,none,red,1\n" for _ in range(160))
    result = world.feed(lines(*range(140)) + bad, "sales-2.csv")
    assert "160 of 300 rows are invalid (53.3%)" in result.faults[0]
    assert result.validated[0].share == pytest.approx(160 / 300)


def test_unreadable_columns_are_refused_whatever_their_severity(world: World) -> None:
    """Case 14: decimals with a comma and decimals in an Integer column, both declared `info` and nullable."""
    folder = DATA / "14-late-type-change"
    loose = {"weight": Float(nulls=True, severity="info"), "visits": Integer(nulls=True, severity="info")}
    world.declare(columns=COLUMNS | loose)
    assert counts(world.feed(folder / "delivery1.csv"))[0][1] == 400
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
    rows = lines(*range(98)) + "heavy,98,red,1\n1.5,many,red,1\n"
    (result,) = world.feed(rows).validated
    assert (result.rows.unreadable, result.rows.quarantined, result.rows.inserted) == (2, 1, 99)
    assert world.rows()[98]["weight"] is None
    outcomes = {(o.column, o.severity, o.failed) for o in result.failing if o.name == "type"}
    assert outcomes == {("weight", "warning", 1), ("visits", "warning", 1)}
    page = validation_report.render_page("small", [result])
    assert "kept, as missing" in page


def test_the_same_bytes_in_another_file_are_ingested_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.put(lines(1, 2))
    world.put(lines(1, 2), "sales (copy).csv")
    world.run()
    assert [row["visits"] for row in world.rows()] == [1, 2]
    assert "same bytes" in caplog.text
    assert world.run().validated == ()
    world.declare(max_removed=1.0)
    world.feed(lines(7))
    assert sorted(row["visits"] for row in world.rows()) == [1, 2, 7], "the copy's rows are the copy's now"
    world.feed(lines(8), "sales (copy).csv")
    assert sorted(row["visits"] for row in world.rows()) == [7, 8]


def test_a_file_that_was_moved_keeps_its_rows(world: World) -> None:
    world.feed(lines(1, 2))
    (world.folder / "sales.csv").rename(world.folder / "sales-2024.csv")
    world.run()
    assert [row["_tc_row"] for row in world.rows()] == [0, 1]
    assert counts(world.feed(lines(1, 2, 3), "sales-2024.csv")) == [(3, 1, 0, 2, 0, 0)]
    assert [row["visits"] for row in world.rows()] == [1, 2, 3]


def test_with_a_key_removed_rows_are_replaced_by_those_of_another_file(world: World) -> None:
    world.declare(key=("visits",), combine="replace", max_removed=1.0)
    world.feed(lines(1, 2, 3), "sales-a.csv")
    world.feed(lines(3, 4).replace("3.5", "9.5"), "sales-b.csv")
    assert [(r["visits"], r["weight"]) for r in sorted(world.rows(), key=lambda r: r["visits"])] == [
        (1, 1.5), (2, 2.5), (3, 9.5), (4, 4.5),
    ]  # fmt: skip
    result = world.feed(lines(4), "sales-b.csv")
    assert counts(result) == [(1, 0, 0, 1, 0, 0)]
    assert {r["visits"]: r["weight"] for r in world.rows()} == {1: 1.5, 2: 2.5, 3: 3.5, 4: 4.5}
    assert counts(world.feed(lines(3), "sales-a.csv")) == [(1, 0, 0, 1, 2, 0)]
    assert sorted(r["visits"] for r in world.rows()) == [3, 4]


def test_append_adds_each_delivery(world: World) -> None:
    world.declare(combine="append")
    world.feed(lines(1))
    world.feed(lines(1, 2))
    assert sorted(row["visits"] for row in world.rows()) == [1, 1, 2]


def test_a_delivery_that_removes_most_rows_is_refused(world: World) -> None:
    world.feed(lines(*range(10)))
    result = world.feed(lines(3, 4))
    assert "removes 8 of 10 rows" in result.faults[0]
    assert len(world.rows()) == 10
    world.declare(max_removed=0.9)
    assert world.run().refused == ()
    assert [row["visits"] for row in world.rows()] == [3, 4]


def test_a_table_with_too_few_rows_waits_for_more(world: World) -> None:
    world.declare(rows=(3, 5))
    assert "would have 2 rows" in world.feed(lines(1, 2), "sales-1.csv").faults[0]
    assert world.feed(lines(3, 4), "sales-2.csv").refused == ()
    assert [row["visits"] for row in world.rows()] == [1, 2, 3, 4]
    assert "would have 6 rows" in world.feed(lines(5, 6), "sales-3.csv").faults[0]


def test_deliveries_of_other_columns(world: World) -> None:
    """Case 21: reordered, extra, renamed and dropped columns."""
    folder = DATA / "21-schema-evolution"
    world.declare(columns={"id": Integer(), **COLUMNS}, key=("id",))
    world.feed(folder / "d1.csv", "sales-1.csv")
    assert counts(world.feed(folder / "d2-reordered.csv", "sales-2.csv")) == [(100, 100, 0, 0, 0, 0)]
    assert [(r["weight"], r["visits"], r["bought"]) for r in world.rows() if r["id"] == 200] == [(71.94, 27, 1)]
    world.put(folder / "d3-extra.csv", "sales-3.csv")
    world.put(folder / "d4-renamed.csv", "sales-4.csv")
    world.put(folder / "d5-dropped.csv", "sales-5.csv")
    with pytest.raises(SourceError, match="2 of 3 new sources") as caught:
        world.ingest()
    assert "'visits'" in str(caught.value)
    assert "Visits" in str(caught.value)
    result = world.validate()
    assert [bool(one.refused) for one in result.validated] == [False, True, True]
    assert len(world.rows()) == 350


@pytest.mark.parametrize("keyed", [True, False])
def test_a_newly_declared_column_has_the_values_that_files_had(world: World, keyed: bool) -> None:
    """Case 21: null in rows of files without it, and the files' values where they had it."""
    folder = DATA / "21-schema-evolution"
    columns = {"id": Integer(), **COLUMNS}
    world.declare(columns=columns, key=("id",) if keyed else ())
    world.feed(folder / "d1.csv", "sales-1.csv")
    world.feed(folder / "d3-extra.csv", "sales-3.csv")
    before = [(row["id"], row["_tc_row"]) for row in world.rows()]
    (world.folder / "sales-1.csv").unlink()  # its bytes are archived
    world.declare(columns=columns | {"extra": Text(nulls=True)})
    world.run()
    assert [(row["id"], row["_tc_row"]) for row in world.rows()] == before
    assert {row["extra"] for row in world.rows() if row["id"] < 300} == {None}
    assert {row["extra"] for row in world.rows() if row["id"] >= 300} == {"x"}
    world.declare(columns={name: c for name, c in columns.items() if name != "colour"} | {"visits": Float()})
    world.run()
    assert [(row["id"], row["_tc_row"]) for row in world.rows()] == before
    assert not {"extra", "colour"} & set(world.rows()[0])
    assert isinstance(world.rows()[0]["visits"], float)


def test_a_new_column_that_may_not_be_missing_changes_nothing(world: World) -> None:
    world.feed(lines(1, 2))
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


def test_the_kept_bytes_verify_after_the_file_is_overwritten_moved_and_deleted(world: World) -> None:
    world.feed(lines(1, 2))
    raw = Tables().version("tables/small/raw/sales")
    assert raw is not None
    recorded = {"tables": {str(raw): {"commits": Tables().commits(raw.name), "files": {}}}}

    def verified() -> list[bool]:
        return [link["verified"] for link in verify_sources(world.problem.name, Tables(), recorded)]

    assert verified() == [True]
    world.feed(lines(1, 2, 3))
    assert verified() == [True]
    (world.folder / "sales.csv").unlink()
    assert verified() == [True]
    key = deliveries.archive_key("small", "sales", deliveries.read_deliveries(Tables(), "small", "sales")[0][0].sha256)
    Tables().store.put(key, b"other")
    assert verified() == [False]


def test_replaced_bytes_expire_and_current_ones_never(world: World, configure: Callable[..., None]) -> None:
    for rows in ((1, 2), (1, 2, 3), (1, 2, 3, 4)):
        world.feed(lines(*rows))
    tables, long = Tables(), datetime(2100, 1, 1, tzinfo=UTC)
    known, _ = deliveries.read_deliveries(tables, "small", "sales")
    assert deliveries.delete_expired(tables, world.problem, world.table, known, 0, long) == []
    assert deliveries.delete_expired(tables, world.problem, world.table, known, 30, datetime.now(UTC)) == []
    gone = deliveries.delete_expired(tables, world.problem, world.table, known, 30, long)
    assert gone == [
        deliveries.archive_key("small", "sales", d.sha256) for d in sorted(known[:2], key=lambda d: d.sha256)
    ]
    assert tables.store.exists(deliveries.archive_key("small", "sales", known[2].sha256))
    world.declare(columns=COLUMNS | {"visits": Float()})  # rows without archived bytes are converted
    world.run()
    assert [row["visits"] for row in world.rows()] == [1.0, 2.0, 3.0, 4.0]


def test_a_run_killed_between_any_two_writes_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write fails once, before and after it is done; the rerun has the result of an undisturbed run."""
    world.declare(columns=COLUMNS | {"colour": Text(one_of=["red"])}, max_quarantined=0.5, max_removed=1.0)
    contents = [lines(1, 2, 3) + "1.5,9,puce,1\n", lines(2, 3, 4) + "2.5,9,puce,1\n"]

    class Killed(BaseException):
        pass

    def dying(real: Callable[..., Any], at: int, after: bool, calls: list[int]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] != at:
                return real(*args, **kwargs)
            if after:
                real(*args, **kwargs)
            raise Killed

        return call

    store = type(Tables().store)
    for number, content in enumerate(contents):
        world.put(content)
        for at in range(1, 9):
            for after in (False, True):
                calls = [0]
                with monkeypatch.context() as patch:
                    for owner, name in ((Tables, "_write"), (store, "put"), (store, "upload")):
                        patch.setattr(owner, name, dying(getattr(owner, name), at, after, calls))
                    try:
                        world.run()
                    except Killed:
                        continue
        world.run()
        expected = [[1, 2, 3], [2, 3, 4]][number]
        assert [row["visits"] for row in world.rows()] == expected
        quarantined = Tables().version("tables/small/quarantine/sales")
        assert quarantined is not None
        assert sorted(Tables().read(quarantined)["_tc_delivery"].to_pylist()) == list(range(number + 1))
    raw, _ = deliveries.read_deliveries(Tables(), "small", "sales")
    assert [d.number for d in raw] == [0, 1]


def test_an_older_home_is_refused_clearly(world: World) -> None:
    import pyarrow as pa

    Tables().append("tables/small/raw/sales", pa.table({"weight": [1.0]}), {"flow": "ingest", "sources": []})
    world.put(lines(1))
    with pytest.raises(SourceError, match="has no record of its deliveries") as caught:
        world.ingest()
    assert "TRUECOURSE_HOME" in caught.value.hint


def test_objects_with_the_same_bytes(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, Objects("landing/*.csv"))
    Tables().store.put("landing/a.csv", lines(1).encode())
    Tables().store.put("landing/b.csv", lines(1).encode())
    world.run()
    assert len(world.rows()) == 1


def test_three_hundred_files_at_once(world: World) -> None:
    world.declare(key=("visits",))
    for day in range(300):
        world.put(lines(day, day + 1), f"sales-{day:03d}.csv")
    result = world.run()
    assert len(result.validated) == 300
    assert len(Tables().commits(clean_table("small", "sales"))) == 1
    assert [row["visits"] for row in world.rows()] == list(range(301))


def test_a_correction_changes_no_request_field_of_an_earlier_decision(world: World) -> None:
    """Case 19."""
    folder = DATA / "19-corrected-past"
    header = (folder / "day1.csv").read_text().splitlines()[0].split(",")
    kinds = {"id": Integer(), "key": Integer(), "weight": Float(), "visits": Integer(), "bought": Integer()}
    columns = {name: kinds.get(name, Time() if name in ("at", "time", "when", "date") else Text()) for name in header}
    time = next(name for name, column in columns.items() if isinstance(column, Time))
    world.declare(columns=columns, key=("id",), time=time)
    world.feed(folder / "day1.csv", "sales-1.csv")
    before = world.spine()
    world.feed(folder / "day2.csv", "sales-2.csv")
    assert any(row["weight"] == 5555 for row in world.rows())
    after = world.spine()
    assert after.slice(0, len(before)).equals(before)
    assert len(after) > len(before)
    assert 5555 not in after["weight"].to_pylist()
