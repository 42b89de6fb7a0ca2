"""The file that `init` drafted a problem from can be scored; only rows that ingest sets aside are rejected."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from truecourse.authoring.scaffold.create import scaffold
from truecourse.data.parsing import UNREADABLE
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate
from truecourse.errors import SourceError
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.serving.contract import Contract
from truecourse.serving.request_reader import RowReader
from truecourse.serving.row_files import RowFiles
from truecourse.serving.rows import Rows
from truecourse.storage.delta_tables import Tables


@pytest.fixture(autouse=True)
def problems(home: Path, configure: Callable[..., None]) -> None:
    """Write problems into the test's own folder."""
    configure(home=home, problems=home / "problems")


CASES = Path(__file__).parents[1] / "data" / "cases"
TRAINING = sorted((CASES / "08-score-the-training-file").glob("*.*"))
OTHERS = [
    ("01-decimal-comma/sales.csv", "price"), ("05-cp1252/orders.csv", "bought"),
    ("07-space-after-comma/people.csv", "income"),
    ("10-nineteen-digits/tweets.csv", "bought"), ("15-ragged/few.csv", "bought"),
    ("35-line-separator/notes.csv", "bought"), ("36-quotes/after.csv", "bought"), ("36-quotes/inside.csv", "bought"),
    ("36-quotes/late-unclosed.csv", "bought"), ("36-quotes/unclosed.csv", "bought"),
]  # fmt: skip
FILES = [(path, "bought") for path in TRAINING] + [(CASES / name, label) for name, label in OTHERS]


def drafted(path: Path, label: str) -> Problem:
    scaffold("case", str(path), label)
    return load_problem("case")


def read(problem: Problem, path: Path) -> tuple[Rows, list[str | None]]:
    contract = Contract.of(problem, Vocabulary(kinds={}, categories={}, classes=()))
    files = RowFiles.of(problem, contract)
    parts = list(files.read(files.locate(path.as_posix(), path)))
    rows = [row for part in parts for row in part.rows]
    ids = [id for part in parts for id in part.ids]
    return RowReader(contract, times_required=True).read(rows, datetime.now(UTC)), ids


def ingested(problem: Problem, folder: Path) -> pa.Table:
    table = problem.label_table
    sources = locate(problem, table, Tables().store, folder)
    return pa.Table.from_batches([batch for source in sources for batch in read_batches(source, table)])


@pytest.mark.parametrize(("path", "label"), FILES, ids=[path.name for path, _ in FILES])
def test_no_row_of_the_training_file_is_rejected(home: Path, tmp_path: Path, path: Path, label: str) -> None:
    problem = drafted(path, label)
    trained = ingested(problem, tmp_path)
    aside = [place for place, text in enumerate(trained[UNREADABLE].to_pylist()) if text]
    assert len(trained) == (600 if path.name == "people.csv" else 400)
    assert len(aside) == {"few.csv": 3, "after.csv": 1, "late-unclosed.csv": 1, "unclosed.csv": 1}.get(path.name, 0)
    rows, _ = read(problem, path)
    assert sorted({fault.row for fault in rows.faults}) == aside
    sound = trained.take(rows.accepted)
    for name, values in rows.values.items():
        wanted = sound[name].to_pylist()
        found = [None if value != value else value for value in values]
        naive = [value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in wanted]
        assert found == naive, name


def test_the_label_and_unused_columns_are_optional(home: Path, tmp_path: Path) -> None:
    problem = drafted(CASES / "08-score-the-training-file" / "long.csv", "bought")
    (table,) = problem.tables
    columns = dict(table.columns) | {"notes": replace(table.columns["notes"], feature=False)}
    problem = replace(problem, tables=[replace(table, columns=columns)])
    assert "notes" not in problem.needed_fields
    (tmp_path / "rows.csv").write_text("visits,weight,colour\n3,4.5,red\n")
    rows, _ = read(problem, tmp_path / "rows.csv")
    assert (len(rows), rows.faults) == (1, [])
    (tmp_path / "rows.csv").write_text("Visits,weight,colour\n3,4.5,red\n")
    with pytest.raises(SourceError, match="has no column 'visits'; its 'Visits' is not declared"):
        read(problem, tmp_path / "rows.csv")


def test_ids_of_nineteen_digits_are_exact(home: Path) -> None:
    path = CASES / "10-nineteen-digits" / "tweets.csv"
    problem = drafted(path, "bought")
    _, ids = read(problem, path)
    assert ids == [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    assert problem.label_table.key == ("tweet_id",)


@pytest.mark.parametrize("name", ["d2-reordered.csv", "d3-extra.csv"])
def test_order_and_extra_columns_change_no_value(home: Path, name: str) -> None:
    folder = CASES / "21-schema-evolution"
    problem = drafted(folder / "d1.csv", "bought")
    rows, ids = read(problem, folder / name)
    header, *lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    assert rows.faults == []
    assert ids == [line[header.index("id")] for line in lines]
    assert list(rows.values["weight"]) == [float(line[header.index("weight")]) for line in lines]


@pytest.mark.parametrize(
    ("name", "says"), [("d4-renamed.csv", "'visits'; its 'Visits'"), ("d5-dropped.csv", "'visits'")]
)
def test_a_renamed_or_missing_column_is_rejected(home: Path, name: str, says: str) -> None:
    folder = CASES / "21-schema-evolution"
    problem = drafted(folder / "d1.csv", "bought")
    with pytest.raises(SourceError, match=f"has no column {says}"):
        read(problem, folder / name)
