"""Small files from public bug reports, in tests/data/cases: from `init` to a trained model, as each README describes.

test_deliveries.py tests later deliveries of a case; test_training_files.py scores training files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.planning import stages
from tasks.training.build_snapshot import take_snapshot
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.scaffold.create import scaffold
from truecourse.errors import TruecourseError
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, train
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table
from truecourse.storage.object_store import open_store

CASES = Path(__file__).parents[1] / "data" / "cases"


@pytest.fixture(autouse=True)
def _world(home: Path, tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(problems=tmp_path / "problems")


@dataclass(frozen=True)
class Expected:
    """The expected problem of one file."""

    kind: str = "binary"
    label: str = "bought"
    classes: tuple[str, ...] = ("0", "1")
    types: dict[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    time: str | None = None
    absent: tuple[str, ...] = ()
    """Columns that `init` leaves out, each with a comment."""
    rows: int = 400
    quarantined: int = 0


def numbers(weight: str = "Float", **more: str) -> dict[str, str]:
    return {"weight": weight, "visits": "Integer", "colour": "Text", **more}


def reserved(name: str, **more: Any) -> tuple[str, Expected]:
    return f"09-reserved-names/{name}.csv", Expected(
        types={name: "Float", "visits": "Integer", "colour": "Text"}, **more
    )


EXPECTED: dict[str, Expected] = {
    "01-decimal-comma/sales.csv": Expected("regression", "price", (), {"weight": "Float", "price": "Float"}),
    "03-duplicate-header/joined.csv": Expected(types={"visits": "Integer"}, absent=("id", "amount")),
    "05-cp1252/orders.csv": Expected(types=numbers(currency="Text", band="Text")),
    "07-space-after-comma/people.csv": Expected(
        label="income", classes=("<=50K", ">50K"), types={"age": "Integer", "hours": "Integer", "job": "Text"}, rows=600
    ),
    "08-score-the-training-file/booleans.csv": Expected(types=numbers(member="Boolean")),
    "08-score-the-training-file/dates.csv": Expected(types=numbers()),
    "08-score-the-training-file/floats.csv": Expected(types=numbers()),
    "08-score-the-training-file/latin1.csv": Expected(types=numbers(town="Text")),
    "08-score-the-training-file/long.csv": Expected(types=numbers(notes="Text")),
    "08-score-the-training-file/markers.csv": Expected(types=numbers()),
    "08-score-the-training-file/mixedfloats.csv": Expected(types=numbers()),
    "08-score-the-training-file/semicolon.csv": Expected(types=numbers()),
    "08-score-the-training-file/file.tsv": Expected(types=numbers()),
    **dict(
        map(
            reserved,
            ("_old", "_source", "base", "batch", "contributions", "error", "event_timestamp", "index", "missing",
             "model_version", "prediction", "row", "rows", "score", "scored_at"),
        )
    ),
    "09-reserved-names/elastic.csv": Expected(types=numbers(), rows=401),
    "09-reserved-names/elastic-plain.csv": Expected(types=numbers(), rows=401),
    "10-nineteen-digits/tweets.csv": Expected(types=numbers(tweet_id="Integer"), key=("tweet_id",)),
    "12-growing-file/day1.csv": Expected(types=numbers()),
    "14-late-type-change/late.csv.gz": Expected(label="taken", types={"dose": "Float", "code": "Text"}, rows=25002),
    "15-ragged/few.csv": Expected(types=numbers(), rows=397, quarantined=3),
    "18-labels/bool.csv": Expected(types=numbers()),
    "18-labels/bool.parquet": Expected(types=numbers()),
    "18-labels/fifty.csv": Expected("multiclass", classes=tuple(f"c{n:02}" for n in range(50)), types=numbers()),
    "18-labels/ints30.csv": Expected("regression", classes=(), types=numbers()),
    "18-labels/minusone.csv": Expected(classes=("-1", "1"), types=numbers()),
    "18-labels/yesno.csv": Expected(classes=("No", "Yes"), types=numbers()),
    "18-labels/whitespace.csv": Expected(classes=("no", "yes"), types=numbers()),
    "19-corrected-past/day1.csv": Expected(types=numbers(), key=("id",), time="at", rows=300),
    "20-refused-then-fixed/good.csv": Expected(types=numbers(), key=("id",)),
    "21-schema-evolution/d1.csv": Expected(types=numbers(), key=("id",), rows=200),
    "31-row-number-as-key/sales-2024-01.csv": Expected(types=numbers(), rows=200),
    "34-business-days/trades.csv": Expected(types=numbers(), time="day"),
    "35-line-separator/notes.csv": Expected(types=numbers(note="Text")),
    "36-quotes/inside.csv": Expected(types=numbers()),
}  # fmt: skip


def draft_problem(file: str | Path, label: str) -> Problem:
    scaffold("case", CASES / file, label)
    problem = load_problem("case")
    assert check_problem(problem) == []
    return problem


def ingest_and_validate(problem: Problem) -> tuple[int, int]:
    """Ingest and validate; the numbers of clean and of quarantined rows."""
    stages.ingest(problem)
    stages.validate(problem)
    tables, name = Tables(), problem.label_table.name
    kept, aside = (tables.version(place(problem.name, name)) for place in (clean_table, quarantine_table))
    assert kept is not None
    return len(tables.read(kept)), len(tables.read(aside)) if aside else 0


@pytest.mark.parametrize("file", EXPECTED)
def test_a_file_becomes_a_model(file: str) -> None:
    expected = EXPECTED[file]
    problem = draft_problem(file, expected.label)
    table = problem.label_table
    types = {name: type(column).__name__ for name, column in table.columns.items()}
    assert (problem.kind, problem.label.classes, table.key, table.time) == (
        expected.kind, expected.classes, expected.key, expected.time,
    )  # fmt: skip
    assert expected.types.items() <= types.items()
    text = (problem.folder / "problem.py").read_text()
    for name in expected.absent:
        assert name not in types
        assert f"left out: {name}" in text
    assert ingest_and_validate(problem) == (expected.rows, expected.quarantined)
    frame = load_frame(open_store(), take_snapshot.fn("case", None))
    predicted = train(problem, frame).model.predict(matrix_of(Vocabulary.learn(problem, frame), frame))
    assert np.isfinite(predicted).all()
    assert np.unique(predicted).size > 1


REFUSED = [
    ("15-ragged/trailing.csv", "bought", ["5 cells", "4 names"]),
    ("15-ragged/rownames.csv", "bought", ["5 cells", "4 names"]),
    ("18-labels/constant.csv", "bought", ["same value", "'a'"]),
    ("18-labels/sixty.csv", "bought", ["60"]),
]


@pytest.mark.parametrize(("file", "label", "messages"), REFUSED)
def test_a_file_that_cannot_be_a_problem_is_refused(
    file: str, label: str, messages: Sequence[str], tmp_path: Path
) -> None:
    with pytest.raises(TruecourseError) as error:
        scaffold("case", CASES / file, label)
    for message in messages:
        assert message in str(error.value)
    assert not (tmp_path / "problems" / "case").exists()
