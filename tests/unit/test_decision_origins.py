"""The source rows of a batch decision, also where its id is no key but derived by the spine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import REPOSITORY
from truecourse.data import sql
from truecourse.data.merge import clean_schema
from truecourse.lineage.decision_origins import origin_of_decision
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.serving.batch_scoring import predictions_table
from truecourse.storage.delta_tables import Tables, clean_table

DECIDED = datetime(2024, 5, 1, tzinfo=UTC)
PLANS = ["basic", "plus", "it's", "basic"]


@pytest.fixture
def problem(home: Path, configure: Callable[..., None]) -> Problem:
    """Customers and a batch that scored them; a decision per month has the id `<customer> <month>`."""
    configure(problems=REPOSITORY / "benchmarks" / "problems", problem="subscriptions")
    problem, tables = load_problem(), Tables()
    customers: list[dict[str, Any]] = [
        {"customer": f"c{i}", "plan": plan, "joined_at": datetime(2024, 1, 1 + i, tzinfo=UTC), "_tc_row": i}
        for i, plan in enumerate(PLANS)
    ]
    rows = {"customers": customers, "orders": []}
    versions = [
        tables.append(clean_table(problem.name, t.name), pa.Table.from_pylist(rows[t.name], clean_schema(t)), {})
        for t in problem.tables
    ]
    commit: dict[str, Any] = {"batch": "b", "span": ["2024-01-01T00:00:00", "2025-01-01T00:00:00"], "source": []}
    commit |= {"tables": [version.model_dump() for version in versions]}
    tables.append(predictions_table(problem.name), pa.table({"id": ["any"]}), commit)
    return problem


def origin(problem: Problem, id: str, **values: Any) -> dict[str, Any]:
    record = {"id": id, "decision_time": DECIDED, "batch": "b", "row": None, "values": values}
    with sql.connect() as database:
        (found,) = origin_of_decision(Tables(), database, problem, record)
    return found


@pytest.mark.parametrize(("number", "plan"), list(enumerate(PLANS)))
def test_a_decision_with_a_derived_id_has_one_source_row(problem: Problem, number: int, plan: str) -> None:
    found = origin(problem, f"c{number} 2024-05", customer=f"c{number}", plan=plan)
    assert (found["state"], found["rows"]) == ("sufficient", 1)
    (customers,) = [table for table in found["tables"] if table["rows"]]
    assert (customers["table"], customers["first"][0]["values"]["customer"]) == ("customers", f"c{number}")


@pytest.mark.parametrize("changed", [{"plan": "plus"}, {"plan": None}, {"customer": "c9"}], ids=str)
def test_other_values_than_the_sources_are_not_proved(problem: Problem, changed: dict[str, Any]) -> None:
    values = {"customer": "c0", "plan": "basic"} | changed
    assert origin(problem, "c0 2024-05", **values)["state"] == "candidates"
