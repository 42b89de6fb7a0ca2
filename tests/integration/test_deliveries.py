"""Deliveries are checked one by one: replaced, removed, moved, copied and read again."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from tests.one_table import CASES, COLUMNS, World, count_rows, write_lines
from truecourse.data import deliveries
from truecourse.errors import SourceError
from truecourse.features.frame import add_split
from truecourse.problem import Float, Integer, Objects, Sql, Text, Time
from truecourse.registry.lineage_record import verify_sources
from truecourse.retention import collect
from truecourse.storage.delta_tables import Tables, clean_table


def test_a_growing_file_without_key_keeps_its_rows_and_their_split(world: World) -> None:
    """Case 12."""
    folder = CASES / "12-growing-file"
    world.feed(folder / "day1.csv")
    before = add_split(world.problem, world.spine())
    result = world.feed(folder / "day2.csv")
    assert count_rows(result) == [(440, 40, 0, 400, 0, 0)]
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
        assert count_rows(world.run()) == [(2 * day + 2, 2, 0, 2 * day, 0, 0)]
    assert len(world.rows()) == 6


def test_equal_rows_are_kept_as_often_as_the_newest_content_has_them(world: World) -> None:
    world.declare(max_removed=1.0)
    world.feed(write_lines(1, 1, 1, 2))
    assert count_rows(world.feed(write_lines(1, 2, 2, 3))) == [(4, 2, 0, 2, 2, 0)]
    assert [row["visits"] for row in world.rows()] == [1, 2, 2, 3]
    assert [row["_tc_row"] for row in world.rows()] == [0, 3, 6, 7]


def test_content_that_is_delivered_again_is_current_again(world: World) -> None:
    """Deliver A, a wrong correction B, and A again, with a key and without."""
    for options in ({"key": ("visits",)}, {"key": (), "combine": "replace"}):
        world.problem = dataclasses.replace(world.problem, name=f"small{len(options)}")
        world.declare(**options, max_removed=1.0)
        for content in (write_lines(1, 2), write_lines(1, 2).replace("1.5", "9.5"), write_lines(1, 2)):
            world.feed(content)
        version = Tables().version(clean_table(world.problem.name, "sales"))
        assert version is not None
        rows = Tables().read(version, filter=pc.field("_tc_superseded_at").is_null()).sort_by("visits")
        assert rows["weight"].to_pylist() == [1.5, 2.5]
        assert world.run().validated == (), "nothing new"


def test_the_same_bytes_in_another_file_are_ingested_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.put(write_lines(1, 2))
    world.put(write_lines(1, 2), "sales (copy).csv")
    world.run()
    assert [row["visits"] for row in world.rows()] == [1, 2]
    assert "same bytes" in caplog.text
    assert world.run().validated == ()
    world.declare(max_removed=1.0)
    world.feed(write_lines(7))
    assert sorted(row["visits"] for row in world.rows()) == [1, 2, 7], "the copy's rows are the copy's now"
    world.feed(write_lines(8), "sales (copy).csv")
    assert sorted(row["visits"] for row in world.rows()) == [7, 8]


def test_a_file_that_was_moved_keeps_its_rows(world: World) -> None:
    world.feed(write_lines(1, 2))
    (world.folder / "sales.csv").rename(world.folder / "sales-2024.csv")
    world.run()
    assert [row["_tc_row"] for row in world.rows()] == [0, 1]
    assert count_rows(world.feed(write_lines(1, 2, 3), "sales-2024.csv")) == [(3, 1, 0, 2, 0, 0)]
    assert [row["visits"] for row in world.rows()] == [1, 2, 3]


def test_with_a_key_removed_rows_are_replaced_by_those_of_another_file(world: World) -> None:
    world.declare(key=("visits",), combine="replace", max_removed=1.0)
    world.feed(write_lines(1, 2, 3), "sales-a.csv")
    world.feed(write_lines(3, 4).replace("3.5", "9.5"), "sales-b.csv")
    assert [(r["visits"], r["weight"]) for r in sorted(world.rows(), key=lambda r: r["visits"])] == [
        (1, 1.5), (2, 2.5), (3, 9.5), (4, 4.5),
    ]  # fmt: skip
    result = world.feed(write_lines(4), "sales-b.csv")
    assert count_rows(result) == [(1, 0, 0, 1, 0, 0)]
    assert {r["visits"]: r["weight"] for r in world.rows()} == {1: 1.5, 2: 2.5, 3: 3.5, 4: 4.5}
    assert count_rows(world.feed(write_lines(3), "sales-a.csv")) == [(1, 0, 0, 1, 2, 0)]
    assert sorted(r["visits"] for r in world.rows()) == [3, 4]


def test_append_adds_each_delivery(world: World) -> None:
    world.declare(combine="append")
    world.feed(write_lines(1))
    world.feed(write_lines(1, 2))
    assert sorted(row["visits"] for row in world.rows()) == [1, 1, 2]


def test_deliveries_of_other_columns(world: World) -> None:
    """Case 21: reordered, extra, renamed and dropped columns."""
    folder = CASES / "21-schema-evolution"
    world.declare(columns={"id": Integer(), **COLUMNS}, key=("id",))
    world.feed(folder / "d1.csv", "sales-1.csv")
    assert count_rows(world.feed(folder / "d2-reordered.csv", "sales-2.csv")) == [(100, 100, 0, 0, 0, 0)]
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
    folder = CASES / "21-schema-evolution"
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


def test_the_kept_bytes_verify_after_the_file_is_overwritten_moved_and_deleted(world: World) -> None:
    world.feed(write_lines(1, 2))
    raw = Tables().version("tables/small/raw/sales")
    assert raw is not None
    recorded = {"tables": {str(raw): {"commits": Tables().commits(raw.name), "files": {}}}}

    def verified() -> list[bool]:
        return [link["verified"] for link in verify_sources(world.problem.name, Tables(), recorded)]

    assert verified() == [True]
    world.feed(write_lines(1, 2, 3))
    assert verified() == [True]
    (world.folder / "sales.csv").unlink()
    assert verified() == [True]
    key = deliveries.archive_key("small", "sales", deliveries.read_deliveries(Tables(), "small", "sales")[0][0].sha256)
    Tables().store.put(key, b"other")
    assert verified() == [False]


def test_replaced_bytes_expire_and_current_ones_never(world: World, configure: Callable[..., None]) -> None:
    for rows in ((1, 2), (1, 2, 3), (1, 2, 3, 4)):
        world.feed(write_lines(*rows))
    tables, later = Tables(), datetime.now(UTC) + timedelta(days=31)
    known, _ = deliveries.read_deliveries(tables, "small", "sales")
    assert not collect.make_plan("small", later).removals, "by default they are kept for ever"
    configure(source_retention=30)
    assert not collect.make_plan("small", datetime.now(UTC)).removals
    assert collect.make_plan("small", later).carry_out() == {"sources": 2}
    keys = [deliveries.archive_key("small", "sales", delivery.sha256) for delivery in known]
    assert [tables.store.exists(key) for key in keys] == [False, False, True]
    world.declare(columns=COLUMNS | {"visits": Float()})  # rows without archived bytes are converted
    world.run()
    assert [row["visits"] for row in world.rows()] == [1.0, 2.0, 3.0, 4.0]


def test_a_run_killed_between_any_two_writes_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write fails once, before and after it is done; the rerun has the result of an undisturbed run."""
    world.declare(columns=COLUMNS | {"colour": Text(one_of=["red"])}, max_quarantined=0.5, max_removed=1.0)
    contents = [write_lines(1, 2, 3) + "1.5,9,puce,1\n", write_lines(2, 3, 4) + "2.5,9,puce,1\n"]

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
    world.put(write_lines(1))
    with pytest.raises(SourceError, match="has no record of its deliveries") as caught:
        world.ingest()
    assert "TRUECOURSE_HOME" in caught.value.hint


def test_objects_with_the_same_bytes(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, Objects("landing/*.csv"))
    Tables().store.put("landing/a.csv", write_lines(1).encode())
    Tables().store.put("landing/b.csv", write_lines(1).encode())
    world.run()
    assert len(world.rows()) == 1


def test_three_hundred_files_at_once(world: World) -> None:
    world.declare(key=("visits",))
    for day in range(300):
        world.put(write_lines(day, day + 1), f"sales-{day:03d}.csv")
    result = world.run()
    assert len(result.validated) == 300
    assert len(Tables().commits(clean_table("small", "sales"))) == 1
    assert [row["visits"] for row in world.rows()] == list(range(301))


def test_a_correction_changes_no_request_field_of_an_earlier_decision(world: World) -> None:
    """Case 19."""
    folder = CASES / "19-corrected-past"
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
