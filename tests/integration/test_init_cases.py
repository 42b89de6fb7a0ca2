"""`truecourse init` on small files that this or other tools have once read wrongly, with the correct values."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.drafted import CASES, draft_problem, source, write_file
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.data_check import check_frame, check_source
from truecourse.authoring.scaffold.create import scaffold
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate_file
from truecourse.errors import ProblemError
from truecourse.problem import Label, Problem, RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Files, Float, Integer, Table


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
