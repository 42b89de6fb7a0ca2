"""The lifecycle on real, unedited tables from packages, with the command-line functions."""

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

from benchmarks.pipeline.tables import TABLES
from cli.main import app
from tests.conftest import existing
from truecourse.problem import RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import BATCH, ROW, SCORE, decisions_batch, predictions_table
from truecourse.storage.delta_tables import Tables, clean_table

pytestmark = pytest.mark.timeout(900)
ONLINE_ROWS = 12
"""The number of rows that are predicted online."""


@dataclass(frozen=True)
class Expected:
    """The problem that an expert would define for a table."""

    kind: str
    rows: int
    types: dict[str, str]
    """Type by column of the file; the columns in `unused` are no features."""
    unused: set[str] = field(default_factory=set)
    time: str | None = None
    classes: tuple[str, ...] = ()


def types_by_column(**kinds: str) -> dict[str, str]:
    """{column: type} from columns by type, separated by bars."""
    return {column: kind for kind, columns in kinds.items() for column in columns.split("|") if column}


EXPECTED = {
    "titanic": Expected(
        "binary",
        1313,
        types_by_column(Text="name|class|sex", Float="age", Integer="survived"),
        classes=("0", "1"),
    ),
    "penguins": Expected(
        "multiclass",
        344,
        types_by_column(
            Text="species|island|sex", Float="bill_length_mm|bill_depth_mm", Integer="flipper_length_mm|body_mass_g"
        ),
        classes=("Adelie", "Chinstrap", "Gentoo"),
    ),
    "weather": Expected(
        "multiclass",
        1461,
        types_by_column(Time="date", Float="precipitation|temp_max|temp_min|wind", Text="weather"),
        time="date",
        classes=("drizzle", "fog", "rain", "snow", "sun"),
    ),
    "superstore": Expected(
        "regression",
        9994,
        types_by_column(
            Text="Ship Mode|Segment|Country|City|State|Region|Category|Sub-Category",
            Float="Sales|Discount|Profit",
            Integer="Postal Code|Quantity",
        ),
        {"Country"},  # one value throughout
    ),
    "diamonds": Expected(
        "regression", 53940, types_by_column(Float="carat|depth|table|x|y|z", Text="cut|color|clarity", Integer="price")
    ),
    "bikes": Expected(
        "regression",
        8645,
        types_by_column(
            Integer="season|day|hr|holiday|weekday|workingday|casual|registered|bikers",
            Text="mnth|weathersit",
            Float="temp|atemp|hum|windspeed",
        ),
        {"casual", "registered"},  # their sum is the label
    ),
    "wages": Expected(
        "regression",
        3000,
        types_by_column(
            Integer="year|age",
            Text="maritl|race|education|region|jobclass|health|health_ins",
            Float="logwage|wage",
        ),
        {"region", "logwage"},  # one value throughout; the label's logarithm
    ),
    "glass": Expected(
        "multiclass",
        214,
        types_by_column(Float="RI|Na|Mg|Al|Si|K|Ca|Ba|Fe", Text="type"),
        classes=("Con", "Head", "Tabl", "Veh", "WinF", "WinNF"),
    ),
}


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture
def tables_home(_home: Path, configure: Callable[..., None], prefect_server: str) -> Path:
    """One home for all tables, as a user has."""
    configure(home=_home / ".truecourse", problems=_home / "problems")
    return _home


def run_command(*words: str) -> Any:
    """Run a command with --json; its parsed output."""
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def rows_of(table: str) -> pa.Table:
    version = Tables().version(table)
    assert version is not None
    return Tables().read(version)


@pytest.mark.parametrize("name", EXPECTED)
def test_init_drafts_what_an_expert_would(name: str, tables_home: Path) -> None:
    source = TABLES[name]
    run_command("init", name, "--data", str(source.path), "--label", source.label)
    run_command("check", "--problem", name)
    _assert_drafted_as_expected(name, EXPECTED[name], source.path)


@pytest.mark.parametrize("name", ["titanic", "weather", "wages", "glass"])
def test_the_lifecycle_runs_on_a_real_table(name: str, tables_home: Path) -> None:
    """With each kind of label, with and without time; the tables' drafts are those of the test before."""
    expected, source = EXPECTED[name], TABLES[name]
    if not (tables_home / "problems" / name).exists():
        run_command("init", name, "--data", str(source.path), "--label", source.label)

    lifecycle = run_command("run", "lifecycle", "--problem", name)["result"]
    clean = rows_of(clean_table(name, load_problem(name).label_table.name))
    assert len(clean) == expected.rows
    assert lifecycle["champion"] is not None, lifecycle["register"]
    assert registry.champion(name) is not None

    result = run_command("run", "score", "--problem", name, "--source", str(source.path))["result"]
    assert (result["scored"], result["rejected"]) == (expected.rows, 0)
    _assert_online_equals_batch(name, expected, clean)
    explained = run_command("explain", "--problem", name)["predictions"][0]
    total = explained["base"] + sum(part["contribution"] for part in explained["contributions"])
    assert total == pytest.approx(explained["margin"], rel=1e-4, abs=1e-3)


def _assert_drafted_as_expected(name: str, expected: Expected, path: Path) -> None:
    problem = load_problem(name)
    table = problem.label_table
    assert problem.kind == expected.kind
    assert problem.label.classes == expected.classes
    assert table.time == expected.time
    assert table.key == ()  # none of them has one
    assert isinstance(problem.split, TimeSplit if expected.time else RandomSplit)
    types = {column: type(declared).__name__ for column, declared in table.columns.items()}
    assert expected.types.items() <= types.items()
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as lines:
        header = next(csv.reader(lines))
    assert set(header) == set(types)
    unused = set(header) - set(problem.features) - {problem.label.column, table.time}
    assert unused == expected.unused
    text = (problem.folder / "problem.py").read_text() + (problem.folder / "README.md").read_text()
    for column in unused:
        assert text.count(column) > 1, f"{column} is left out of the model without a word"


def _assert_online_equals_batch(name: str, expected: Expected, clean: pa.Table) -> None:
    problem = load_problem(name)
    scored = rows_of(predictions_table(name))
    own = decisions_batch(existing(registry.champion(name)))
    batch = scored.filter(pc.not_equal(scored[BATCH], own)).sort_by(ROW)
    assert len(batch) == expected.rows
    rows = clean.sort_by(ROW).select([*problem.request_fields]).slice(0, ONLINE_ROWS).to_pylist()
    if problem.has_time:
        moments = clean.sort_by(ROW)[problem.label_table.time].to_pylist()
        rows = [row | {"decision_time": at.isoformat()} for row, at in zip(rows, moments, strict=False)]
    words = [word for row in rows for word in ("--row", json.dumps(row, default=str))]
    answers = run_command("predict", "--problem", name, *words)["predictions"]
    for place, online in enumerate(answers):
        offline = batch.slice(place, 1).to_pylist()[0]
        if expected.kind == "multiclass":
            for label, score in online["scores"].items():
                assert math.isclose(offline[f"{SCORE}_{label}"], score, abs_tol=1e-6)
        else:
            assert math.isclose(offline[SCORE], online["score"], rel_tol=1e-6)
