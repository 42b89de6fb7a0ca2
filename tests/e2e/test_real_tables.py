"""Real tables, unedited, as packages ship them: through the whole path by the command line's own functions."""

import csv
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from benchmarks.tables import TABLES
from cli.main import app
from truecourse.problem import RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import BATCH, ROW, SCORE, decisions_batch, predictions_table
from truecourse.storage.tables import Tables, clean_table

pytestmark = pytest.mark.timeout(900)
ASKED = 12
"""Rows that are asked for online."""


@dataclass(frozen=True)
class Right:
    """What a careful person would make of a table."""

    kind: str
    rows: int
    types: dict[str, str]
    """Of the columns in the file, by type: "category", "time" or "number"; `unused` ones left out of the model."""
    unused: set[str] = field(default_factory=set)
    time: str | None = None
    classes: tuple[str, ...] = ()


def typed(**kinds: str) -> dict[str, str]:
    """{column: type} of types' columns, separated by bars."""
    return {column: kind for kind, columns in kinds.items() for column in columns.split("|") if column}


RIGHT = {
    "titanic": Right(
        "binary", 1313, typed(Text="name|class|sex", Float="age", Integer="survived"), {"name"}, classes=("0", "1")
    ),
    "penguins": Right(
        "multiclass",
        344,
        typed(Text="species|island|sex", Float="bill_length_mm|bill_depth_mm", Integer="flipper_length_mm|body_mass_g"),
        classes=("Adelie", "Chinstrap", "Gentoo"),
    ),
    "weather": Right(
        "multiclass",
        1461,
        typed(Time="date", Float="precipitation|temp_max|temp_min|wind", Text="weather"),
        time="date",
        classes=("drizzle", "fog", "rain", "snow", "sun"),
    ),
    "superstore": Right(
        "regression",
        9994,
        typed(
            Text="Ship Mode|Segment|Country|City|State|Region|Category|Sub-Category",
            Float="Sales|Discount|Profit",
            Integer="Postal Code|Quantity",
        ),
        {"Country"},  # one value throughout
    ),
    "diamonds": Right(
        "regression", 53940, typed(Float="carat|depth|table|x|y|z", Text="cut|color|clarity", Integer="price")
    ),
    "bikes": Right(
        "regression",
        8645,
        typed(
            Integer="season|day|hr|holiday|weekday|workingday|casual|registered|bikers",
            Text="mnth|weathersit",
            Float="temp|atemp|hum|windspeed",
        ),
        {"casual", "registered"},  # their sum is the label
    ),
    "wages": Right(
        "regression",
        3000,
        typed(
            Integer="year|age",
            Text="maritl|race|education|region|jobclass|health|health_ins",
            Float="logwage|wage",
        ),
        {"region", "logwage"},  # one value throughout; the label's logarithm
    ),
    "glass": Right(
        "multiclass",
        214,
        typed(Float="RI|Na|Mg|Al|Si|K|Ca|Ba|Fe", Text="type"),
        classes=("Con", "Head", "Tabl", "Veh", "WinF", "WinNF"),
    ),
}


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture
def tables_home(_home: Path, configure: Callable[..., None], prefect_server: str) -> Path:
    """One home for all of them, as a user's is."""
    configure(home=_home / ".truecourse", problems=_home / "problems")
    return _home


def told(*words: str) -> Any:
    """A command's answer."""
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def rows_of(table: str) -> pa.Table:
    version = Tables().version(table)
    assert version is not None
    return Tables().read(version)


@pytest.mark.parametrize("name", RIGHT)
def test_the_lifecycle_runs_on_a_real_table(name: str, tables_home: Path) -> None:
    right, source = RIGHT[name], TABLES[name]
    told("init", name, "--data", str(source.path), "--label", source.label)
    told("check", "--problem", name)
    _sees_the_table(name, right, source.path)

    lifecycle = told("run", "lifecycle", "--problem", name)["result"]
    clean = rows_of(clean_table(name, load_problem(name).label_table.name))
    assert len(clean) == right.rows
    assert lifecycle["champion"] is not None, lifecycle["register"]
    assert registry.champion(name) is not None

    result = told("run", "score", "--problem", name, "--source", str(source.path))["result"]
    assert (result["scored"], result["rejected"]) == (right.rows, 0)
    _answers_online_as_in_the_batch(name, right, clean)
    explained = told("explain", "--problem", name)["predictions"][0]
    total = explained["base"] + sum(part["contribution"] for part in explained["contributions"])
    assert total == pytest.approx(explained["margin"], rel=1e-4, abs=1e-3)


def _sees_the_table(name: str, right: Right, path: Path) -> None:
    problem = load_problem(name)
    table = problem.label_table
    assert problem.kind == right.kind
    assert problem.label.classes == right.classes
    assert table.time == right.time
    assert table.key == ()  # none of them has one
    assert isinstance(problem.split, TimeSplit if right.time else RandomSplit)
    types = {column: type(declared).__name__ for column, declared in table.columns.items()}
    assert right.types.items() <= types.items()
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as lines:
        header = next(csv.reader(lines))
    assert set(header) == set(types)
    unused = set(header) - set(problem.features) - {problem.label.column, table.time}
    assert unused == right.unused
    text = (problem.folder / "problem.py").read_text() + (problem.folder / "README.md").read_text()
    for column in unused:
        assert text.count(column) > 1, f"{column} is left out of the model without a word"


def _answers_online_as_in_the_batch(name: str, right: Right, clean: pa.Table) -> None:
    problem = load_problem(name)
    scored = rows_of(predictions_table(name))
    own = decisions_batch(registry.champion(name))
    batch = scored.filter(pc.not_equal(scored[BATCH], own)).sort_by(ROW)
    assert len(batch) == right.rows
    rows = clean.sort_by(ROW).select([*problem.request_fields]).slice(0, ASKED).to_pylist()
    if problem.has_time:
        moments = clean.sort_by(ROW)[problem.label_table.time].to_pylist()
        rows = [row | {"decision_time": at.isoformat()} for row, at in zip(rows, moments, strict=False)]
    words = [word for row in rows for word in ("--row", json.dumps(row, default=str))]
    answers = told("predict", "--problem", name, *words)["predictions"]
    for place, online in enumerate(answers):
        offline = batch.slice(place, 1).to_pylist()[0]
        if right.kind == "multiclass":
            for label, score in online["scores"].items():
                assert math.isclose(offline[f"{SCORE}_{label}"], score, abs_tol=1e-6)
        else:
            assert math.isclose(offline[SCORE], online["score"], rel_tol=1e-6)
