"""Versioned tables: versions are immutable, logs open quickly, and reads open only relevant files."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from truecourse.settings import Settings
from truecourse.storage.commit_history import CommitHistory
from truecourse.storage.delta_tables import CHECKPOINT_EVERY, ROW_GROUP, Tables

FIRST = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def day(number: int) -> pa.Table:
    """Three rows of one day, the last 999,999 microseconds past its second."""
    start = FIRST + timedelta(days=number)
    moments = [start, start + timedelta(hours=12), start + timedelta(hours=23, seconds=1, microseconds=999_999)]
    return pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC")), "day": [number] * 3})


@pytest.mark.parametrize("few", [0, 6])
def test_filters_skip_files_but_no_matching_row(tables: Tables, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of few files is kept open entirely; then the read skips the files."""
    monkeypatch.setattr("truecourse.storage.delta_tables._FEW_FILES", few)
    for number in range(6):
        version = tables.append("log", day(number), {})
    start, end = FIRST + timedelta(days=2), FIRST + timedelta(days=3)
    where = [("at", ">=", start), ("at", "<", end)]
    assert len(tables.dataset(version).files) == 6
    assert len(tables.dataset(version, where).files) == (6 if few else 1)
    assert (tables.dataset(version, where) is tables.dataset(version)) == bool(few)
    at = pc.field("at")
    plain = tables.read(version, filter=(at >= pa.scalar(start)) & (at < pa.scalar(end)))
    assert tables.read(version, where=where).equals(plain)
    assert plain["day"].to_pylist() == [2, 2, 2]
    # commits keep milliseconds: the last row of a day is found by its own microsecond, and not by the next one
    last = start + timedelta(hours=23, seconds=1, microseconds=999_999)
    assert tables.read(version, where=[("at", "=", last)])["day"].to_pylist() == [2]
    assert not len(tables.read(version, where=[("at", ">", last), ("at", "<", end)]))
    both = tables.read(version, ["day"], pc.field("day") == 2, where=[("at", ">", start)])
    assert both["day"].to_pylist() == [2, 2]


def test_versions_are_immutable_and_the_newest_is_reported(tables: Tables) -> None:
    assert tables.version("log") is None
    first = tables.append("log", day(0), {})
    assert (first.version, tables.version("log")) == (0, first)
    assert len(tables.read(first)) == 3
    second = tables.append("log", day(1), {})
    assert tables.version("log") == second
    assert (len(tables.read(first)), len(tables.read(second))) == (3, 6)
    replaced = tables.replace("log", day(2), {})
    assert [len(tables.read(version)) for version in (first, second, replaced)] == [3, 6, 3]
    assert tables.open("log").version() == 2


def test_the_log_is_checkpointed_every_few_commits(tables: Tables, tmp_path: Path) -> None:
    for number in range(2 * CHECKPOINT_EVERY + 1):
        version = tables.append("log", day(number), {"number": number})
    sums = list((tmp_path / "storage" / "log" / "_delta_log").glob("*.checkpoint.parquet"))
    assert len(sums) == 2
    assert len(Tables(Settings(home=tmp_path)).read(version)) == 3 * (2 * CHECKPOINT_EVERY + 1)
    assert [info["number"] for _, info in tables.commits("log")] == list(range(2 * CHECKPOINT_EVERY + 1))


def test_only_the_changes_between_two_versions_are_read(tables: Tables) -> None:
    old = tables.append("log", day(0), {})
    middle = tables.append("log", day(1), {})
    new = tables.replace("log", day(1).slice(1), {}, where="day = 1")
    gone, come = tables.changed_files(old, new)
    assert (len(gone.to_table()), come.to_table()["day"].to_pylist()) == (0, [1, 1])
    gone, come = tables.changed_files(middle, new)
    assert (gone.to_table()["day"].to_pylist(), come.to_table()["day"].to_pylist()) == ([1, 1, 1], [1, 1])
    assert not any(len(side.to_table()) for side in tables.changed_files(new, new))


def test_reading_one_day_of_a_large_file_costs_one_day(tables: Tables) -> None:
    moments = [FIRST + timedelta(seconds=second) for second in range(3 * ROW_GROUP)]
    version = tables.append("log", pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC"))}), {})
    (file,) = tables.dataset(version).get_fragments()
    hour = pc.field("at") < pa.scalar(FIRST + timedelta(hours=1))
    assert (len(file.row_groups), len(file.subset(hour).row_groups)) == (3, 1)
    assert file.metadata.row_group(0).column(0).compression == "SNAPPY"


def test_the_parts_make_up_the_table_in_order(tables: Tables) -> None:
    for number in range(5):
        version = tables.append("log", day(number), {})
    parts = list(tables.parts(version, ["at", "day"], 4, filter=pc.field("day") > 0))
    assert len(parts) > 1
    assert pa.concat_tables(parts).equals(tables.read(version, ["at", "day"], pc.field("day") > 0))


@pytest.mark.parametrize("partition", [None, "day"])
@pytest.mark.parametrize("where", ["id = 'r5'", "n < 14", "id IN ('r3', 'r27') OR n = 12", "n >= 0", "id = 'none'"])
def test_rows_that_stay_after_a_deletion_are_found(tables: Tables, where: str, partition: str | None) -> None:
    rows = pa.table({"id": [f"r{n}" for n in range(30)], "n": range(30), "day": [f"d{n // 7}" for n in range(30)]})
    for start in (0, 10, 20):
        tables.append("t", rows.slice(start, 10), {}, partition_by=partition)
    tables.delete("t", where, {"flow": "cleanup"})
    reference = tables.version("t")
    assert reference is not None
    kept = duckdb.sql(f"SELECT id FROM rows WHERE NOT ({where})").fetchall()
    assert sorted(tables.read(reference)["id"].to_pylist()) == sorted(name for (name,) in kept)
    for name in rows["id"].to_pylist():
        condition = pc.field("id") == name
        found = tables.read(reference, filter=condition)["n"].to_pylist()
        assert [row["n"] for row in tables.find_rows(reference, condition)] == found
        assert found == ([int(name[1:])] if (name,) in kept else [])
    with duckdb.connect() as connection:
        connection.register("stored", tables.dataset(reference))
        assert connection.execute("SELECT count(*) FROM stored WHERE id = 'r9'").fetchone() == (int(("r9",) in kept),)
    assert tables.commits("t")[-1][1]["flow"] == "cleanup"


def test_commits_are_numbered_by_their_own_versions(tables: Tables) -> None:
    """Also those of an older version, and while other processes write."""
    written = [tables.append("log", day(number), {"day": number}) for number in range(5)]
    assert [tables.commit(version) for version in written] == [{"day": number} for number in range(5)]
    history = CommitHistory(tables.store)
    assert [(one.version, one.metadata["day"]) for one in history.all("log", 2)] == [(0, 0), (1, 1), (2, 2)]
    assert [(one.version, one.metadata["day"]) for one in history.last("log", 3, 2)] == [(2, 2), (3, 3)]
    assert tables.commits("log") == [(number, {"day": number}) for number in range(5)]
    assert [number for number, _, _ in tables.recent("log", 2)] == [3, 4]
    assert tables.commits("other") == []


def test_a_table_that_was_removed_and_written_anew_is_read_anew(tables: Tables) -> None:
    """Also if it has as many commits as before."""
    for number in range(3):
        version = tables.append("log", day(number), {"day": number})
    assert tables.commits("log")[0][1] == {"day": 0}
    assert len(tables.read(version)) == 9
    shutil.rmtree(Path(tables.uri("log")))
    assert tables.commits("log") == []
    assert not tables.exists("log")
    other = Tables(tables._settings)
    for number in range(7, 10):
        other.append("log", day(number), {"day": number})
    assert tables.commits("log") == other.commits("log")
    assert set(tables.read(version)["day"].to_pylist()) == {7, 8, 9}
