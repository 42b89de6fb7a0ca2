"""One parser: a file's values are read alike for training, for scoring and as a JSON request."""

import csv
import io
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.data.parsing import UNREADABLE
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate_file
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Boolean, Csv, Files, Float, Integer, Label, Problem, Table, Text, Time
from truecourse.problem.schema import EPOCHS
from truecourse.serving.contract import Contract
from truecourse.serving.request_reader import RowReader
from truecourse.serving.row_files import RowFiles

NOW = datetime(2024, 5, 1, tzinfo=UTC)
FORMATS = [None, "%d/%m/%Y %H:%M:%S", "%Y%m%d%H%M%S", "%d %b %Y %H:%M:%S", "epoch_s", "epoch_ms"]
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5) | st.just(1234567890123456789)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9999, 9999).map(lambda n: n / 100)
LETTERS = st.characters(codec="cp1252", exclude_characters="\r\n\x1c\x1d\x1e\x1f\x85")
TEXTS = st.text(LETTERS, min_size=1, max_size=9) | st.sampled_from(
    ["a, b", "a; b", 'the "big" one', "“quoted” – €", "x\u00a0y"]
)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2068, 12, 31)).map(lambda moment: moment.replace(microsecond=0))


@st.composite
def dialects(draw: st.DrawFn) -> Csv:
    decimal: Literal[".", ","] = draw(st.sampled_from([".", ","]))
    return Csv(
        delimiter=draw(st.sampled_from([",", ";", "\t", "|"])),
        decimal=decimal,
        thousands=draw(st.sampled_from([s for s in ("", ",", ".", " ", "'") if s != decimal])),
        encoding=draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "cp1252", "utf-16-le"])),
        skip_lines=draw(st.integers(0, 2)),
        quote=draw(st.sampled_from(['"', "'"])),
        null_values=draw(st.sampled_from([("", "NA"), ("?",), ("", "-", "n/a")])),
    )


def grouped(text: str, sign: str) -> str:
    """Digits in groups of three, separated by this sign."""
    minus, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    return minus + f"{int(digits):,}".replace(",", sign) if sign else text


def format_value(value: Any, dialect: Csv, column: Any, group: bool) -> str:
    """A value as written in a file of the dialect."""
    if value is None:
        return dialect.null_values[0]
    if isinstance(column, Boolean):
        return "TRUE" if value else "false"
    if isinstance(column, Time):
        if column.format is not None and column.format in EPOCHS:
            return str((value - datetime(1970, 1, 1)) // timedelta(microseconds=EPOCHS[column.format]))
        return str(value.strftime(column.format) if column.format else value.isoformat(" "))
    if isinstance(column, Integer):
        return (grouped(str(value), dialect.thousands) if group else str(value)) + column.symbol
    if isinstance(column, Float):
        whole, point, part = repr(value).partition(".")
        if group and whole != "-0" and "e" not in whole + part:
            whole = grouped(whole, dialect.thousands)
        return whole + (dialect.decimal if point else "") + part + column.symbol
    return str(value)


def are_equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


def spec(folder: Path, columns: dict[str, Any], source: Files) -> Problem:
    table = Table("things", source=source, columns=columns | {"label": Integer()}, key=["key"])
    return Problem("small", kind="regression", tables=[table], label=Label(column="label"), folder=folder)


def scored(problem: Problem, path: Path) -> tuple[list[dict[str, Any]], list[str | None], Any]:
    """The accepted rows by field, ids and faults of scoring a file."""
    contract = Contract.of(problem, Vocabulary(kinds={}, categories={}, classes=()))
    files = RowFiles.of(problem, contract)
    parts = list(files.read(files.locate(path.as_posix(), path)))
    rows = [row for part in parts for row in part.rows]
    read = RowReader(contract, times_required=True).read(rows, NOW)
    values = [dict(zip(read.values, row, strict=True)) for row in zip(*map(list, read.values.values()), strict=True)]
    return values, [id for part in parts for id in part.ids], read.faults


@given(data=st.data())
def test_a_file_reads_alike_for_training_scoring_and_requests(data: st.DataObject) -> None:
    dialect = data.draw(dialects())
    symbol = data.draw(st.sampled_from(["", "$", " €", "%", "USD"])).strip()
    columns = {
        "key": Integer(),
        "count": Integer(nulls=True, symbol=symbol),
        "price": Float(nulls=True, symbol=symbol),
        "open": Boolean(nulls=True),
        "at": Time(nulls=True, format=data.draw(st.sampled_from(FORMATS))),
        "name": Text(nulls=True),
    }
    names = st.none() | TEXTS.map(lambda t: t.strip()).filter(lambda t: t and t not in dialect.null_values)
    values = [st.none() | kind for kind in (INTEGERS, FLOATS, st.booleans(), MOMENTS)]
    rows = data.draw(st.lists(st.tuples(*values, names), min_size=1, max_size=6))
    records = [dict(zip(columns, (key, *row), strict=True)) for key, row in enumerate(rows)]
    group = data.draw(st.booleans())
    text = io.StringIO()
    text.write("A title\n" * dialect.skip_lines)
    writer = csv.writer(text, delimiter=dialect.delimiter, quotechar=dialect.quote)
    writer.writerow([*columns, "label"])
    writer.writerows([*(format_value(r[n], dialect, c, group) for n, c in columns.items()), "1"] for r in records)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "things.csv"
        path.write_text(text.getvalue(), encoding=dialect.encoding, newline="", errors="replace")
        problem = spec(Path(folder), columns, Files(path.name, csv=dialect))
        table = problem.tables[0]
        trained = pa.Table.from_batches(read_batches(locate_file(path.name, path, None, dialect), table))
        assert trained[UNREADABLE].null_count == len(trained)
        naive = [
            row | {"at": row["at"] and row["at"].replace(tzinfo=None)} for row in trained.select(columns).to_pylist()
        ]
        assert naive == records
        found, ids, faults = scored(problem, path)
        assert faults == []
        assert ids == [str(row["key"]) for row in records]
        for row, given_row in zip(found, records, strict=True):
            assert all(are_equal(None if value != value else value, given_row[name]) for name, value in row.items()), (
                row
            )
        sent = [
            {n: v.isoformat() + "Z" if isinstance(v, datetime) else v for n, v in row.items() if n != "key"}
            for row in records
        ]
        contract = Contract.of(problem, Vocabulary(kinds={}, categories={}, classes=()))
        online = RowReader(contract).read_request(json.dumps({"rows": sent}).encode(), NOW)
        asked = [dict(zip(online.values, r, strict=True)) for r in zip(*map(list, online.values.values()), strict=True)]
        assert all(are_equal(a[n], b[n]) for a, b in zip(asked, found, strict=True) for n in a)


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "arrow.csv"])
def test_files_of_pandas_and_arrow_are_read_exactly(form: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "key": [1, 2, 1234567890123456789],
            "count": pd.array([3, None, -(2**62)], "Int64"),
            "price": [0.1, float("nan"), 1e-300],
            "open": pd.array([True, None, False], "boolean"),
            "at": pd.to_datetime(["2024-02-29", "NaT", "1999-12-31 23:59:59.123456"], format="ISO8601"),
            "name": ['a "b", c', None, "two\nlines"],
            "label": [1, 2, 3],
        }
    )
    path = tmp_path / f"things.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "arrow.csv":
        import pyarrow.csv as arrow_csv

        arrow_csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), path)
    elif form == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True, date_format="iso", double_precision=15, date_unit="us")
        frame.loc[2, "price"] = 0.0 if json.loads(path.read_text().splitlines()[2])["price"] == 0 else 1e-300
    columns = {
        "key": Integer(), "count": Integer(nulls=True), "price": Float(nulls=True), "open": Boolean(nulls=True),
        "at": Time(nulls=True), "name": Text(nulls=True),
    }  # fmt: skip
    problem = spec(tmp_path, columns, Files(path.name))
    trained = pa.Table.from_batches(read_batches(locate_file(path.name, path), problem.tables[0]))
    assert trained[UNREADABLE].null_count == 3
    assert trained["key"].to_pylist() == frame["key"].tolist()
    assert trained["count"].to_pylist() == [3, None, -(2**62)]
    assert trained["price"].to_pylist() == [0.1, None, frame["price"][2]]
    assert trained["open"].to_pylist() == [True, None, False]
    assert [at and at.replace(tzinfo=None) for at in trained["at"].to_pylist()] == [
        datetime(2024, 2, 29), None, datetime(1999, 12, 31, 23, 59, 59, 123456),
    ]  # fmt: skip
    assert trained["name"].to_pylist() == ['a "b", c', None, "two\nlines"]
    found, ids, faults = scored(problem, path)
    assert (len(found), ids, faults) == (3, [str(key) for key in frame["key"]], [])


CASES = Path(__file__).parents[1] / "data" / "cases"


def test_values_of_parquet_are_exact_where_the_type_can_hold_them() -> None:
    path = CASES / "27-parquet-types" / "types.parquet"
    columns: dict[str, Any] = {
        "dec": Float(), "decid": Integer(), "dicti": Integer(), "dictt": Text(), "u64": Text(), "f16": Float(),
        "ls": Text(), "sv": Text(), "list": Text(), "a": Text(), "a.b": Float(), "t32": Text(), "bin": Text(),
        "dur": Text(), "nul": Float(nulls=True),
    }  # fmt: skip
    table = Table("types", source=Files("types.parquet"), columns=columns)
    given_table = pq.read_table(path)
    read = pa.Table.from_batches(read_batches(locate_file("types.parquet", path), table))
    assert read[UNREADABLE].null_count == len(read)
    assert read["dec"].to_pylist() == [float(value) for value in given_table["dec"].to_pylist()]
    for name in ("decid", "dicti", "dictt", "ls", "sv"):
        values = given_table[name].to_pylist()
        assert read[name].to_pylist() == [int(v) if name == "decid" else v for v in values], name
    assert read["u64"].to_pylist() == [str(value) for value in given_table["u64"].to_pylist()]
    index = given_table.column_names.index("a.b")
    assert read["a.b"].to_pylist() == given_table.column(index).cast(pa.float64()).to_pylist()
    assert [json.loads(text) for text in read["list"].to_pylist()] == given_table["list"].to_pylist()
