"""`truecourse init` on small files that this or other tools have once read wrongly, with the correct values."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.data_check import check_frame, check_source
from truecourse.authoring.scaffold.create import Draft, scaffold
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate_file
from truecourse.errors import ProblemError, SourceError
from truecourse.problem import Label, Problem, RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Boolean, Files, Float, Integer, Table, Text, Time

CASES = Path(__file__).parent.parent / "data" / "cases"


@pytest.fixture
def problems(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Path:
    """An empty problems folder."""
    configure(problems=tmp_path / "problems")
    return tmp_path / "problems"


def draft_problem(data: Path | str, label: str) -> tuple[Problem, Draft]:
    draft = scaffold("drafted", data, label)
    problem = load_problem("drafted")
    assert check_problem(problem) == []
    return problem, draft


def kinds(problem: Problem) -> dict[str, type]:
    return {name: type(column) for name, column in problem.tables[0].columns.items()}


def source(problem: Problem) -> Files:
    files = problem.tables[0].source
    assert isinstance(files, Files)
    return files


def write_file(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_decimal_commas_are_numbers(problems: Path) -> None:
    problem, draft = draft_problem(CASES / "01-decimal-comma" / "sales.csv", "price")
    assert problem.kind == "regression"
    assert (source(problem).csv.delimiter, source(problem).csv.decimal) == (";", ",")
    assert kinds(problem) == {"weight": Float, "visits": Integer, "colour": Text, "bought": Integer, "price": Float}
    assert any("',' as decimal sign" in line for line in draft.noticed)


def test_duplicate_column_names_are_left_out_and_reported(problems: Path) -> None:
    problem, draft = draft_problem(CASES / "03-duplicate-header" / "joined.csv", "bought")
    assert set(problem.tables[0].columns) == {"visits", "bought"}
    assert len(draft.guesses.left_out) == 4
    notices = "\n".join(draft.noticed)
    assert "`id (column 4)`: its name occurs twice; rename one of the two in the file" in notices
    assert "its name occurs twice" in (problems / "drafted" / "problem.py").read_text()
    assert "its name occurs twice" in (problems / "drafted" / "README.md").read_text()
    with pytest.raises(ProblemError, match="occurs twice"):
        scaffold("other", CASES / "03-duplicate-header" / "joined.csv", "amount")


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


@pytest.mark.parametrize(
    ("file", "kind", "classes"),
    [
        ("whitespace.csv", "binary", ("no", "yes")),
        ("yesno.csv", "binary", ("No", "Yes")),
        ("bool.csv", "binary", ("0", "1")),
        ("bool.parquet", "binary", ("0", "1")),
        ("minusone.csv", "binary", ("-1", "1")),
        ("halfnull.csv", "binary", ("0", "1")),
        ("onehot.csv", "binary", ("0", "1")),
        ("single.csv", "multiclass", ("a", "b", "c", "d", "zz")),
        ("fifty.csv", "multiclass", tuple(f"c{n:02d}" for n in range(50))),
        ("rare30.csv", "multiclass", None),
        ("ints30.csv", "regression", ()),
    ],
)
def test_labels_of_many_kinds(file: str, kind: str, classes: tuple[str, ...] | None, problems: Path) -> None:
    problem, _ = draft_problem(CASES / "18-labels" / file, "bought")
    assert problem.kind == kind
    if classes is None:
        assert 20 < len(problem.label.classes) <= 30
    else:
        assert problem.label.classes == classes


@pytest.mark.parametrize(
    ("file", "label", "message"),
    [
        ("sixty.csv", "bought", "'bought' has 60 different texts, too many to be classes"),
        ("constant.csv", "bought", "every row of 'bought' has the same value, 'a'"),
        ("infinity.csv", "bought", "'bought' holds 'inf' in 1 row"),
        ("infinity.parquet", "bought", "'bought' holds 'inf'"),
        ("inf2.parquet", "bought", "'bought' holds 'inf'"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(file: str, label: str, message: str, problems: Path) -> None:
    with pytest.raises(ProblemError) as raised:
        scaffold("drafted", CASES / "18-labels" / file, label)
    assert message in str(raised.value)
    assert raised.value.faults[0].hint


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


def test_row_numbers_are_no_key_and_no_feature(problems: Path) -> None:
    folder = CASES / "31-row-number-as-key"
    for data in (folder / "sales-2024-01.csv", f"{folder}/sales-*.csv"):
        problem, draft = draft_problem(data, "bought")
        assert problem.tables[0].key == ()
        assert "rownames" not in problem.features
        assert any(line.startswith("Key: none") for line in draft.noticed)
        (problems / "drafted").rename(problems / f"was_{draft.file.rows}")
    assert draft.file.rows == 400
    assert source(problem).path == f"{folder}/sales-*.csv"
    assert problem.tables[0].name == "sales"


@pytest.mark.parametrize("file", sorted(path.name for path in (CASES / "09-reserved-names").glob("*.csv")))
def test_column_names_of_our_own_tables_are_allowed(file: str, problems: Path) -> None:
    problem, _ = draft_problem(CASES / "09-reserved-names" / file, "bought")
    named = file.removesuffix(".csv")
    if "elastic" not in file:
        assert named in problem.features


@pytest.mark.parametrize("name", ["known_at", "split", "label", "decision_time", "id", "_tc_row", "_TC_x", "SIZE"])
def test_reserved_column_names_are_renamed_and_reported(name: str, problems: Path, tmp_path: Path) -> None:
    data = write_file(tmp_path / "data.csv", [f"size,{name},y", *(f"{n % 5}.5,{n % 7},{n % 2}" for n in range(60))])
    problem, draft = draft_problem(data, "y")
    table = problem.tables[0]
    renamed = next(own for own, column in table.columns.items() if column.source == name)
    assert renamed in problem.features
    assert any(repr(name) in line and renamed in line for line in draft.noticed)
    (read,) = read_batches(locate_file("data.csv", data, "csv"), table)
    assert read.column(renamed).to_pylist() == [n % 7 for n in range(60)]


def test_two_columns_of_one_source_column_are_a_fault(problems: Path, tmp_path: Path) -> None:
    data = write_file(tmp_path / "data.csv", ["split,size,y", *(f"{n % 7},{n % 5}.5,{n % 2}" for n in range(60))])
    problem, _ = draft_problem(data, "y")
    table = problem.tables[0]
    twice = replace(table, columns={**table.columns, "again": Integer(source="split")})
    faults = check_problem(replace(problem, tables=(twice,)))
    assert [fault.what for fault in faults] == ["split_value, again all read the source column 'split'"]


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


def test_a_key_is_recognized_by_its_name(problems: Path, tmp_path: Path) -> None:
    header = "name,height,day,Order ID,y"
    rows = [f"n{n:03d},{n * 1.5},{2024}-01-{n % 28 + 1:02d},A{n:05d},{n % 2}" for n in range(60)]
    problem, _ = draft_problem(write_file(tmp_path / "with.csv", [header, *rows]), "y")
    assert problem.tables[0].key == ("Order ID",)
    (problems / "drafted").rename(problems / "was")
    rows = [",".join(cell for i, cell in enumerate(row.split(",")) if i != 3) for row in rows]
    problem, draft = draft_problem(write_file(tmp_path / "without.csv", ["name,height,day,y", *rows]), "y")
    assert problem.tables[0].key == ()
    assert any("neither name nor values identify" in line for line in draft.noticed)


def test_monthly_rows_with_missing_labels_are_split_by_time(problems: Path, tmp_path: Path) -> None:
    rows = [f"{2000 + n // 12}-{n % 12 + 1:02d}-01,{n % 7},{'' if n % 5 == 0 else n % 2}" for n in range(60)]
    problem, _ = draft_problem(write_file(tmp_path / "data.csv", ["month,size,y", *rows]), "y")
    assert isinstance(problem.split, TimeSplit)
    assert problem.tables[0].time == "month"


def test_columns_that_add_up_to_the_label_are_no_features(problems: Path, tmp_path: Path) -> None:
    rows = [f"{n * 7 % 31},{n * 13 % 97},{n % 24},{n * 7 % 31 + n * 13 % 97}" for n in range(300)]
    problem, draft = draft_problem(write_file(tmp_path / "bikes.csv", ["casual,registered,hour,count", *rows]), "count")
    assert set(problem.features) == {"hour"}
    assert any("casual + registered equals it in 100.00% of rows" in line for line in draft.noticed)
    assert isinstance(problem.split, RandomSplit)


def test_check_data_reports_suspects_and_unreadable_cells(problems: Path, tmp_path: Path) -> None:
    rows = [f"{n * 7 % 31},{n * 13 % 97},{'?!' if n == 5 else n % 24},{n * 7 % 31 + n * 13 % 97}" for n in range(300)]
    scaffold("drafted", write_file(tmp_path / "bikes.csv", ["casual,registered,hour,count", *rows]), "count")
    assert check_source(load_problem("drafted")).suspects == ()  # the draft excludes them from the features
    file = problems / "drafted" / "problem.py"
    file.write_text(file.read_text().replace("feature=False, ", ""))
    result = check_source(load_problem("drafted"))
    (suspect,) = result.suspects
    assert suspect.columns == ("casual", "registered")
    assert (result.rows, result.unreadable) == (300, {"hour": 1})
    assert [line.startswith("suspected leak: casual and registered") for line in result.warnings()] == [True, False]


def test_check_data_checks_the_features_of_a_frame(problems: Path) -> None:
    table = Table("t", source=Files("t.csv"), columns={"y": Integer(), "a": Float(), "b": Float()})
    problem = Problem("p", kind="binary", tables=[table], label=Label(column="y"))
    labels = [n % 2 for n in range(600)]
    frame = pa.table(
        {"a": [y + n / 1000 for n, y in enumerate(labels)], "b": [n % 7 for n in range(600)], "label": labels}
    )
    result = check_frame(problem, frame)
    assert [suspect.columns for suspect in result.suspects] == [("a",)]
    assert "suspected leak: a determines label by a threshold" in result.warnings()[0]


def test_notices_are_the_same_in_the_terminal_the_readme_and_json(problems: Path) -> None:
    from typer.testing import CliRunner

    from cli.main import app

    command = ["init", "drafted", "--data", str(CASES / "03-duplicate-header" / "joined.csv"), "--label", "bought"]
    answer = CliRunner().invoke(app, [*command, "--json"])
    assert answer.exit_code == 0
    document = json.loads(answer.stdout)
    assert document["left_out"]["id (column 1)"].startswith("its name occurs twice")
    assert (document["kind"], document["features"], document["suspects"]) == ("binary", ["visits"], [])
    readme = (problems / "drafted" / "README.md").read_text()
    (problems / "drafted").rename(problems / "was")
    shown = CliRunner().invoke(app, command).stdout.replace("\n", " ")
    for line in document["noticed"]:
        assert line in readme
        assert line[:60] in " ".join(shown.split())
