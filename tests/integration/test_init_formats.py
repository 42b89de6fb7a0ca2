"""`init` reads dialects, encodings, numbers and times of real files as they were meant."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.drafted import CASES, draft_problem, kinds, source, write_file
from truecourse.authoring.scaffold.create import scaffold
from truecourse.errors import SourceError
from truecourse.problem import TimeSplit
from truecourse.problem.schema import Boolean, Float, Integer, Text, Time


def test_decimal_commas_are_numbers(problems: Path) -> None:
    problem, draft = draft_problem(CASES / "01-decimal-comma" / "sales.csv", "price")
    assert problem.kind == "regression"
    assert (source(problem).csv.delimiter, source(problem).csv.decimal) == (";", ",")
    assert kinds(problem) == {"weight": Float, "visits": Integer, "colour": Text, "bought": Integer, "price": Float}
    assert any("',' as decimal sign" in line for line in draft.noticed)


def test_windows_text_is_read_as_it_was_write_lines(problems: Path) -> None:
    problem, _ = draft_problem(CASES / "05-cp1252" / "orders.csv", "bought")
    currency, band = (problem.tables[0].columns[name] for name in ("currency", "band"))
    assert source(problem).csv.encoding == "cp1252"
    assert isinstance(currency, Text)
    assert "€" in (currency.one_of or ())
    assert isinstance(band, Text)
    assert "10–20" in (band.one_of or ())


def test_spaces_after_commas_are_not_part_of_a_cell(problems: Path) -> None:
    problem, _ = draft_problem(CASES / "07-space-after-comma" / "people.csv", "income")
    assert kinds(problem) == {"age": Integer, "job": Text, "hours": Integer, "income": Text}
    assert set(problem.label.classes) == {"<=50K", ">50K"}
    assert "?" in source(problem).csv.null_values
    job = problem.tables[0].columns["job"]
    assert isinstance(job, Text)
    assert job.nulls
    assert "Sales" in (job.one_of or ())


def test_identifiers_of_nineteen_digits_are_exact_and_the_key(problems: Path) -> None:
    problem, _ = draft_problem(CASES / "10-nineteen-digits" / "tweets.csv", "bought")
    assert isinstance(problem.tables[0].columns["tweet_id"], Integer)
    assert problem.tables[0].key == ("tweet_id",)


def test_digits_beyond_64_bits_stay_exact(problems: Path, tmp_path: Path) -> None:
    data = write_file(tmp_path / "data.csv", ["id,size,y", *(f"{2**63 + n},{n % 7},{n % 2}" for n in range(60))])
    problem, draft = draft_problem(data, "y")
    assert isinstance(problem.tables[0].columns["id"], Text)
    assert draft.file.sample["id"][1].as_py() == str(2**63 + 1)


def test_the_whole_file_is_read(problems: Path, tmp_path: Path) -> None:
    lines = [f"{n * 7 % 100},{10000 + n % 25},{n % 2}" for n in range(25_000)]
    data = write_file(tmp_path / "late.csv", ["dose,code,taken", *lines, "0.5,D100,0", "1.5,D101,1"])
    problem, draft = draft_problem(data, "taken")
    assert kinds(problem) == {"dose": Float, "code": Text, "taken": Integer}
    assert any("'D100'" in line for line in draft.noticed)


@pytest.mark.parametrize("file", ["trailing.csv", "rownames.csv"])
def test_cells_that_differ_from_the_header_are_refused(file: str, problems: Path) -> None:
    with pytest.raises(SourceError, match="the header has 4 names, and the rows have 5 cells") as raised:
        scaffold("drafted", CASES / "15-ragged" / file, "bought")
    assert ("every row ends in ','" in str(raised.value)) == (file == "trailing.csv")
    assert ("row.names=FALSE" in raised.value.hint) == (file == "rownames.csv")
    assert not problems.exists() or not list(problems.iterdir())


def test_a_few_short_rows_are_reported(problems: Path) -> None:
    _, draft = draft_problem(CASES / "15-ragged" / "few.csv", "bought")
    assert (draft.file.rows, draft.file.malformed_lines) == (397, 3)
    assert any("3 malformed lines, set aside" in line for line in draft.noticed)


def test_every_parquet_type_is_exact_or_reported(problems: Path) -> None:
    problem, draft = draft_problem(CASES / "27-parquet-types" / "types.parquet", "y")
    assert kinds(problem) == {
        "dec": Float, "decid": Integer, "dicti": Integer, "dictt": Text, "u64": Text, "f16": Float, "ls": Text,
        "sv": Text, "a.b": Integer, "y": Integer,
    }  # fmt: skip
    notices = "\n".join(draft.noticed)
    for name in ("list", "a", "t32", "bin", "dur", "nul"):
        assert f"Not declared: `{name} (" in notices
    assert draft.file.sample["decid"][0].as_py() == 9007199254740993
    assert draft.file.sample["u64"][0].as_py() == "9223372036854775808"


def test_one_unexpected_cell_does_not_make_a_column_text(problems: Path, tmp_path: Path) -> None:
    lines = [
        ",".join(("oops" if n == 7 else f"{n % 50}", "nil" if n == 9 else f"{n / 3}",
                  "soon" if n == 3 else f"2024-01-{n % 28 + 1:02d}", f"{n % 2}"))
        for n in range(400)
    ]  # fmt: skip
    problem, draft = draft_problem(write_file(tmp_path / "data.csv", ["a,b,day,y", *lines]), "y")
    assert kinds(problem) == {"a": Integer, "b": Float, "day": Time, "y": Integer}
    assert "nil" in source(problem).csv.null_values
    notices = "\n".join(draft.noticed)
    assert "'oops' 1" in notices
    assert "'soon' 1" in notices
    assert isinstance(problem.split, TimeSplit)


def test_many_unexpected_cells_make_a_column_text_and_are_reported(problems: Path, tmp_path: Path) -> None:
    odd = ["about 5", "few", "none at all", "10ish", "don't know"]
    lines = [f"{odd[n % 5] if n % 10 == 0 else n % 90},{n % 9},{n % 2}" for n in range(400)]
    problem, draft = draft_problem(write_file(tmp_path / "data.csv", ["a,b,y", *lines]), "y")
    assert kinds(problem)["a"] is Text
    assert any("kept as text: 10.0% of its cells are not numbers" in line for line in draft.noticed)


def test_money_and_shares_are_numbers(problems: Path, tmp_path: Path) -> None:
    lines = [f'"${n * 37:,}.50",{n % 90}.5 %,"{n * 1000:,}",{n % 9} EUR,{n % 2}' for n in range(400)]
    problem, _ = draft_problem(write_file(tmp_path / "data.csv", ["price,share,count,fee,y", *lines]), "y")
    columns = problem.tables[0].columns
    assert kinds(problem) == {"price": Float, "share": Float, "count": Integer, "fee": Integer, "y": Integer}
    assert [getattr(columns[name], "symbol", None) for name in ("price", "share", "count", "fee")] == [
        "$",
        "%",
        "",
        "EUR",
    ]
    assert source(problem).csv.thousands == ","


def test_time_formats_are_declared(problems: Path, tmp_path: Path) -> None:
    lines = [
        f"{n % 28 + 1:02d}/{n % 12 + 1:02d}/2024,{n % 12 + 1}/{n % 28 + 1}/2024 14:05,"
        f"2024{n % 12 + 1:02d}{n % 28 + 1:02d},{1700000000 + n * 3600},{n % 28 + 1} Mar 2024,{2000 + n % 20},{n % 2}"
        for n in range(400)
    ]
    header = "dayfirst,monthfirst,compact,created_at,named,year,y"
    problem, _ = draft_problem(write_file(tmp_path / "data.csv", [header, *lines]), "y")
    columns = problem.tables[0].columns
    formats = {name: column.format for name, column in columns.items() if isinstance(column, Time)}
    assert formats == {
        "dayfirst": "%d/%m/%Y", "monthfirst": "%m/%d/%Y %H:%M", "compact": "%Y%m%d", "created_at": "epoch_s",
        "named": "%d %b %Y",
    }  # fmt: skip
    assert isinstance(columns["year"], Integer)


def test_an_ambiguous_order_of_day_and_month_is_reported(problems: Path, tmp_path: Path) -> None:
    shuffled = write_file(
        tmp_path / "any.csv", ["day,size,y", *(f"{n % 12 + 1:02d}/01/2024,{n % 7},{n % 2}" for n in range(60))]
    )
    _, draft = draft_problem(shuffled, "y")
    notices = "\n".join(draft.noticed)
    assert "no day is above 12: read as month before day" in notices
    assert "format='%d/%m/%Y'" in notices
    (problems / "drafted").rename(problems / "was")
    rows = [f"{n % 9 + 1:02d}/{n // 9 + 1:02d}/2024,{n % 7},{n % 2}" for n in range(90)]
    problem, draft = draft_problem(write_file(tmp_path / "sorted.csv", ["day,size,y", *rows]), "y")
    assert problem.tables[0].columns["day"] == Time(format="%d/%m/%Y")
    assert any("so that the rows are in order of time" in line for line in draft.noticed)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y"])
def test_decisions_on_one_day_of_each_month_determine_the_order(form: str, problems: Path, tmp_path: Path) -> None:
    months = [datetime(2019 + n // 12, n % 12 + 1, 1) for n in range(30)]
    rows = [f"{month.strftime(form)},{n},{n % 2}" for month in months for n in range(4)]
    problem, draft = draft_problem(write_file(tmp_path / "data.csv", ["month,size,y", *rows]), "y")
    month = problem.tables[0].columns["month"]
    assert isinstance(month, Time)
    assert month.format == form
    assert any("one day of each month" in line for line in draft.noticed)


def test_title_lines_and_totals_are_no_rows(problems: Path, tmp_path: Path) -> None:
    rows = [f"p{n % 5};{n},5;{n % 2}" for n in range(100)]
    data = write_file(tmp_path / "data.csv", ["Sales of 2024;;", "by me", "product;amount;y", *rows, "Total;4999,5;50"])
    problem, draft = draft_problem(data, "y")
    assert source(problem).csv.skip_lines == 2
    assert (draft.file.rows, draft.file.totals) == (100, ("Total, 4999,5, 50",))
    product = problem.tables[0].columns["product"]
    assert isinstance(product, Text)
    assert product.pattern == "^(?!(Total)$)"
    assert any("totals" in line for line in draft.noticed)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_wide_encodings(encoding: str, problems: Path, tmp_path: Path) -> None:
    data = write_file(tmp_path / "d.csv", ["größe,size,y", *(f"ä{n % 3},{n % 7},{n % 2}" for n in range(60))], encoding)
    problem, _ = draft_problem(data, "y")
    assert kinds(problem) == {"größe": Text, "size": Integer, "y": Integer}


def test_json_lines(problems: Path, tmp_path: Path) -> None:
    rows = [f'{{"size": {n % 7}.5, "who": "t{n % 3}", "y": {"true" if n % 2 else "false"}}}' for n in range(60)]
    problem, _ = draft_problem(write_file(tmp_path / "rows.json", rows), "y")
    assert kinds(problem) == {"size": Float, "who": Text, "y": Boolean}
    assert source(problem).format == "jsonl"
