"""`truecourse init` on files of every kind: its guesses are valid, marked and formatted, and run unedited."""

import gzip
import json
import subprocess
import sys
import zipfile
from datetime import date, datetime
from itertools import takewhile
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.scaffold.create import Draft, scaffold
from truecourse.errors import ProblemError, SourceError
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem import Files, Ngrams, Problem, RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Boolean, Float, Integer, Text, Time
from truecourse.storage.delta_tables import Tables, clean_table


def customers(rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(3)
    income = random.normal(3000, 800, rows).round(2)
    income[::7] = np.nan
    visits = random.poisson(4, rows)
    return pd.DataFrame(
        {
            "Customer ID": [f"C{number:05d}" for number in range(rows)],
            "joined": pd.date_range("2023-01-01", periods=rows, freq="D").strftime("%Y-%m-%d"),
            "zip": [f"{number % 50:05d}" for number in range(rows)],
            'plan\'s "name"': random.choice(["basic", "größer", "x,y"], rows),
            "2nd income": income,
            "visits": visits,
            "member": random.choice(["true", "false"], rows),
            "comment": [f"called on day {number}, asked for {number * 7}" for number in range(rows)],
            "churned": np.where((visits < 3) != (random.random(rows) < 0.1), "yes", "no"),
        }
    )


def draft_problem(data: Path, label: str, name: str = "drafted") -> Problem:
    folder = scaffold(name, data, label).folder
    assert (folder / "README.md").read_text().startswith(f"# {name}")
    problem = load_problem(name)
    assert check_problem(problem) == []
    return problem


def test_a_csv_file_becomes_a_valid_problem(problems: Path, tmp_path: Path) -> None:
    data = tmp_path / "Customers 2023.csv"
    customers().to_csv(data, index=False)
    problem = draft_problem(data, "churned")
    (table,) = problem.tables
    assert problem.kind == "binary"
    assert problem.label.classes == ("no", "yes")
    assert (table.name, table.key, table.time) == ("customers_2023", ("Customer ID",), "joined")
    assert isinstance(table.source, Files)
    assert table.source.path == str(data)
    columns = table.columns
    assert columns["Customer ID"] == Text(unique=True)
    assert isinstance(columns["joined"], Time)
    assert isinstance(columns["zip"], Text)  # leading zeros: not a number
    plan = columns['plan\'s "name"']
    assert isinstance(plan, Text)
    assert plan.one_of == ("basic", "größer", "x,y")
    income = columns["2nd income"]
    assert isinstance(income, Float)
    assert income.nulls
    assert isinstance(columns["visits"], Integer)
    assert columns["visits"].ge == 0
    assert isinstance(columns["member"], Boolean)
    assert columns["comment"] == Text(ngrams=Ngrams(width=16), severity="info")
    assert isinstance(problem.split, TimeSplit)
    days = pd.to_datetime(customers()["joined"]).dt.date
    shares = [(days < day).mean() for day in (problem.split.train_until, problem.split.validate_until)]
    assert shares == pytest.approx([0.6, 0.8], abs=0.01)


def test_the_draft_is_formatted_and_marks_its_guesses(problems: Path, tmp_path: Path) -> None:
    data = tmp_path / "customers.csv"
    frame = customers()
    frame["split"] = 1
    frame.to_csv(data, index=False)
    file = scaffold("drafted", data, "churned").folder / "problem.py"
    text = file.read_text()
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "format", "--isolated", "--line-length=120", "--check", str(file)], check=True)
    subprocess.run([*ruff, "check", "--isolated", "--select=E,F,I", "--line-length=120", str(file)], check=True)
    for guessed in ("key=", "time=", "split=", "model=", "kind=", "rows=", '"visits": ', "label="):
        before = text[: text.index(f"\n    {guessed}") if f"\n    {guessed}" in text else text.index(f" {guessed}")]
        comment = list(takewhile(lambda line: line.strip().startswith("#"), reversed(before.rstrip().splitlines())))
        assert "# guessed: " in "".join(comment), guessed
    assert "the column 'split' of the file, renamed" in text
    assert 'source="split"' in text


def test_a_parquet_file_with_its_own_types(problems: Path, tmp_path: Path) -> None:
    rows = 200
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "size": random.normal(0, 1, rows),
            "flag": random.random(rows) < 0.5,
            "kind": pd.Categorical(random.choice(["a", "b"], rows)),
            "at": pd.date_range("2024-05-01", periods=rows, freq="h"),
            "list": [[1]] * rows,
            "nothing": [None] * rows,
            "price": random.normal(100, 20, rows),
        }
    )
    frame.loc[3, "price"] = np.nan
    frame.to_parquet(tmp_path / "data.parquet")
    problem = draft_problem(tmp_path / "data.parquet", "price")
    columns = problem.tables[0].columns
    assert problem.kind == "regression"
    assert {name: type(column) for name, column in columns.items()} == {
        "size": Float, "flag": Boolean, "kind": Text, "at": Time, "price": Float,
    }  # fmt: skip
    assert columns["price"].nulls
    assert problem.tables[0].time == "at"


@pytest.mark.parametrize("packed", ["csv.zip", "csv.gz", "txt", "tsv"])
def test_packed_and_otherwise_delimited_files(packed: str, problems: Path, tmp_path: Path) -> None:
    data = tmp_path / f"file.{packed}"
    delimiter = {"tsv": "\t", "txt": ";"}.get(packed, ",")
    text = customers(100).to_csv(index=False, sep=delimiter, na_rep="?").encode("latin-1")
    if packed == "csv.zip":
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("inside.csv", text)
    else:
        data.write_bytes(gzip.compress(text) if packed == "csv.gz" else text)
    source = draft_problem(data, "visits").tables[0].source
    assert isinstance(source, Files)
    assert (source.csv.delimiter, source.csv.encoding) == (delimiter, "cp1252")
    assert source.csv.null_values == ("", "NA", "?")
    assert source.format == ("csv" if packed == "txt" else None)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["1", "0"], "binary", ("0", "1")),
        (["true", "false"], "binary", ("0", "1")),
        (["yes", "no", "no"], "binary", ("no", "yes")),
        (["rare", "often", "often"], "binary", ("often", "rare")),
        (["a", "b", "c"], "multiclass", ("a", "b", "c")),
        (["2", "1", "3"], "multiclass", ("1", "2", "3")),
        (["1.0", "0.0"], "binary", ("0", "1")),
        (["1.5", "2", "3"], "regression", ()),
        ([str(number) for number in range(90)], "regression", ()),
    ],
)
def test_the_kind_follows_the_label(values: list[str], kind: str, classes: tuple[str, ...], problems: Path) -> None:
    data = problems.parent / "data.csv"
    lines = [f"{n * 13 % 7}.5,{values[n % len(values)]}" for n in range(90)]
    data.write_text("\n".join(["size,truth", *lines, "2.5,"]))
    problem = draft_problem(data, "truth")
    assert (problem.kind, problem.label.classes) == (kind, classes)
    assert isinstance(problem.split, RandomSplit)
    assert problem.tables[0].columns["truth"].nulls


@pytest.mark.parametrize(
    ("text", "label", "name", "message"),
    [
        (None, "y", "drafted", "no such file"),
        ("", "y", "drafted", "the file is empty"),
        ("a,y\n", "y", "drafted", "has no rows"),
        ("\n\n", "y", "drafted", "no header"),
        ("a,\0y\n1,2\n", "y", "drafted", "neither CSV, JSON lines nor Parquet"),
        ("a,price\n1,2\n2,3\n", "prise", "drafted", "did you mean price"),
        ("a,y\n1,2\n2,2\n", "y", "drafted", "the same value"),
        ("a,y\n1,\n2,\n", "y", "drafted", "is empty"),
        ("a,y\n1,2024-01-01\n2,2024-01-02\n", "y", "drafted", "holds times"),
        ("y\n1\n2\n", "y", "drafted", "no column is left to predict"),
        ("a,y\n" + "\n".join(f"{n},word{n}" for n in range(99)), "y", "drafted", "99 different texts"),
        ("a,y\n1,2\n2,3\n", "y", "My Problem", "my_problem"),
        ("a,y\n1,2\n2,3\n", "y", "class", "problem_class"),
        ("a,y\n1,2\n2,3\n", "y", "../up", "up"),
    ],
)
def test_data_that_cannot_be_drafted_is_an_error_and_nothing_is_written(
    text: str | None, label: str, name: str, message: str, problems: Path
) -> None:
    data = problems.parent / "data.csv"
    if text is not None:
        data.write_text(text)
    with pytest.raises((ProblemError, SourceError)) as raised:
        scaffold(name, data, label)
    assert message in str(raised.value)
    assert not list(problems.glob("**/*")) if problems.exists() else True


def test_broken_files_are_errors(problems: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv.zip").write_bytes(b"PK no zip")
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no parquet")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("one.csv", "a,y\n1,2\n")
        archive.writestr("two.csv", "a,y\n1,2\n")
    for name in ("a.csv.zip", "b.csv.gz", "c.parquet", "d.zip", "."):
        with pytest.raises(SourceError) as raised:
            scaffold("drafted", tmp_path / name, "y")
        assert str(tmp_path) in str(raised.value)


def test_a_folder_that_exists_is_left_alone(problems: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,y\n1,2\n2,3\n")
    file = scaffold("drafted", data, "y").folder / "problem.py"
    file.write_text("mine")
    with pytest.raises(ProblemError, match="already exists"):
        scaffold("drafted", data, "y")
    assert file.read_text() == "mine"


CELLS = {
    "integers": st.integers(-(2**63), 2**63 - 1) | st.none(),
    "floats": st.floats() | st.none(),
    "texts": st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12) | st.none(),
    "booleans": st.booleans() | st.none(),
    "dates": st.dates(date(1700, 1, 1), date(2200, 1, 1)),
    "mixed": st.sampled_from(["1", "x", "", "NA", "?", "1e5", "-0", "007", "2024-01-01", "2024-13-01", " 1", "inf"]),
}
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=10) | st.sampled_from(
    [
        "id",
        "label",
        "split",
        "decision_time",
        "_tc_row",
        "_row",
        "A",
        "a",
        "select",
        "'",
        '"',
        "\\",
        "{x}",
        "a.b",
        " ",
        "a]",
        "%s",
    ]
)


@st.composite
def unusual_tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 30))
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    cells = [CELLS[draw(st.sampled_from(sorted(CELLS)))] for _ in names]
    columns = [pa.array(draw(st.lists(kind, min_size=rows, max_size=rows))) for kind in cells]
    return pa.table([*columns, pa.array([n % 3 for n in range(rows)])], [*names, "the label"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(table=unusual_tables(), kind=st.sampled_from(["csv", "parquet", "jsonl"]))
def test_unusual_tables_give_valid_problems_or_clear_errors(table: pa.Table, kind: str, problems: Path) -> None:
    """For any names and values: a draft without faults that ingests its own data, or one of our errors."""
    name = f"odd_{uuid4().hex}"
    data = problems.parent / f"{name}.{kind}"
    write_table(table, data)
    try:
        draft = scaffold(name, data, "the label")
    except (ProblemError, SourceError):
        return
    problem = load_problem(name)
    assert check_problem(problem) == []
    assert_ingested(problem, draft)


def write_table(table: pa.Table, data: Path) -> None:
    if data.suffix == ".parquet":
        pq.write_table(table, data)
    elif data.suffix == ".jsonl":
        rows = [{k: v.isoformat() if isinstance(v, date) else v for k, v in row.items()} for row in table.to_pylist()]
        data.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        table.to_pandas().to_csv(data, index=False)


def assert_ingested(problem: Problem, draft: Draft) -> None:
    """Assert that ingest and validation accept the data, apart from the rows that init announced to set aside."""
    (table,) = problem.tables
    tables = Tables()
    ingest_sources(problem, table, tables)
    validate_new(problem, table, tables, datetime(2024, 1, 1))
    version = tables.version(clean_table(problem.name, table.name))
    clean = tables.read(version).num_rows if version else 0
    assert clean == draft.file.rows - draft.guesses.rows_set_aside(draft.file)


TABLES = {
    "five rows": pd.DataFrame({"a": range(5), "b": list("xyxyx"), "y": [0, 1, 0, 1, 0]}),
    "three positives": pd.DataFrame({"a": np.arange(200) % 17, "y": [1] * 3 + [0] * 197}),
    "300 columns": pd.DataFrame({f"c{n}": np.arange(60) * n % 31 for n in range(300)} | {"y": np.arange(60) % 2}),
    "900 categories": pd.DataFrame(
        {"city": [f"town {n % 900}" for n in range(3000)], "size": np.arange(3000) % 71, "y": np.arange(3000) % 2}
    ),
    "odd names": pd.DataFrame(
        {name: [n * 7 % 9 for n in range(60)]
         for name in ("a.b", "c d", "100%", "q\"uo'te", "two\nlines", "class", "SELECT", "naïve", "A", "a", "{x}")}
        | {"y": [n * 7 % 3 for n in range(60)]}
    ),
    "constants and blanks": pd.DataFrame(
        {"same": 1, "none": None, "text": "x", "size": np.arange(60) % 7, "y": np.arange(60) % 2}
    ),
    "one odd cell in ten": pd.DataFrame({"a": ["oops", *map(str, range(9))] * 3, "b": range(30), "y": [0, 1] * 15}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("named", TABLES)
def test_small_and_wide_tables_are_ingested(named: str, kind: str, problems: Path) -> None:
    data = problems.parent / f"data.{kind}"
    write_table(pa.Table.from_pandas(TABLES[named]), data)
    draft = scaffold("drafted", data, "y")
    problem = load_problem("drafted")
    assert check_problem(problem) == []
    assert_ingested(problem, draft)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("packed", [False, True])
def test_a_draft_runs_unedited(packed: bool, problems: Path, prefect_server: str) -> None:
    """The lifecycle with unusual names, missing values and unlabelled rows, with time (CSV) and without (Parquet)."""
    from flows.lifecycle import lifecycle

    frame = customers(600).rename(columns={"zip": "Zip [code] <5>"})
    frame.loc[frame.index[-5:], "churned"] = None
    data = problems.parent / f"Customers of 2023{'.parquet' if packed else '.csv'}"
    if packed:
        frame.drop(columns=["joined", "Customer ID"]).astype({"visits": "Int32"}).to_parquet(data)
    else:
        frame.to_csv(data, index=False)
    name = "packed" if packed else "timed"
    scaffold(name, data, "churned")
    summary = lifecycle(name)
    assert summary["train"].snapshot.rows == 595
    assert summary["champion"] is not None
    assert summary["score"].version >= 0
