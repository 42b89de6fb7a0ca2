"""Lineage and differences of a table whose columns were renamed and widened."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tasks.scoring.score_decisions import score_decisions
from tests import traced_home
from tests.edited_orders import DECIMAL, install
from truecourse.lineage import forward_trace
from truecourse.lineage.affected_features import EDITED
from truecourse.lineage.feature_origins import prediction_origins
from truecourse.lineage.table_diff import diff_tables
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import find_scored_rows
from truecourse.storage.delta_tables import Tables

RENAMED = (
    ("problem.py", '"amount": Integer(ge=0)', '"value": Float(ge=0, renamed_from="amount")'),
    ("problem.py", '"number": Integer()', '"order": Integer(renamed_from="number")'),
    ("problem.py", 'key=["number"]', 'key=["order"]'),
    ("spine.sql", "number AS id", '"order" AS id'),
    ("label.sql", "number AS id", '"order" AS id'),
    ("features/spend.sql", "sum(sum(amount))", "sum(sum(value))"),
)


@pytest.fixture
def folder(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A model and batch predictions of the orders; the problem's folder."""
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="orders")
    folder = install(tmp_path / "problems")
    traced_home.refresh("orders")
    traced_home.train("orders")
    window = Window(start=datetime(2026, 2, 5), end=datetime(2026, 2, 20))
    score_decisions.fn("orders", 1, window, explain=False)
    return folder


def states(id: str) -> dict[str, str]:
    tables = Tables()
    (record, *_) = find_scored_rows(tables, "orders", id)
    found = prediction_origins(tables, record, registry.version("orders", 1))
    assert found["features"][-1]["rows"] == 1, "of the customer's segment"
    return {one["view"]: one["state"] for one in found["origins"]}


def test_lineage_and_differences_after_an_edit(folder: Path) -> None:
    expected = dict.fromkeys(("spend", "haste", "facts", "request"), "sufficient")
    id = "280"
    assert states(id) == expected
    for file, old, new in RENAMED:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
    assert states(id) == expected, "a version's archived problem names the former columns"
    traced_home.refresh("orders")
    assert states(id) == expected
    problem, tables = load_problem(), Tables()
    found = diff_tables(tables, problem, "orders@0", "orders")
    assert (found["rows"]["added"], found["rows"]["removed"], found["rows"]["changed"]) == (1, 0, 0)
    assert [row["order"] for row in found["rows"]["first"]["added"]] == [DECIMAL]
    assert found["columns"] == {"added": {}, "removed": {}, "changed": {"value": ["int64", "double"]}}
    assert "value is renamed from amount" in found["edits"]
    assert [side["rows"] for side in found["quarantine"]] == [3, 2]
    back = diff_tables(tables, problem, "orders", "orders@0")
    assert (back["rows"]["removed"], back["columns"]["changed"]) == (1, {"value": ["double", "int64"]})
    (row,) = forward_trace.trace_row(tables, problem, "orders", id)["tables"]
    assert [one["method"] == EDITED for one in row["features"]] == [False, False]
    assert all(one["count"] for one in row["features"])
    assert row["decisions"]["by"] == {"decision": 1}
