"""Sources whose columns differ from the declared ones: ignored, reported or refused, as the table declares."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.edited_orders import START, install, orders, replace_text, rows_of, run_data
from truecourse.data.validation_report import TableResult
from truecourse.errors import SourceError
from truecourse.ingestion.validate import validate_new
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

KEY = 'key=["number"],'


@pytest.fixture
def folder(home: Path, tmp_path: Path, configure: Callable[..., None]) -> Path:
    """The problem's folder, with two deliveries that were validated."""
    configure(problems=tmp_path, problem="orders")
    folder = install(tmp_path)
    run_data(load_problem())
    return folder


def deliver(folder: Path, drop: str = "", **added: Any) -> tuple[TableResult, list[str]]:
    """Deliver 40 orders without a column or with others; the result and the warnings, or the fault of ingestion."""
    rows = orders(5000, 40, "2026-03-05", 3)
    rows = rows.drop(columns=["weight", *([drop] if drop else [])]).assign(**added)
    rows.to_csv(folder / "data" / "orders-9.csv", index=False)
    try:
        result = run_data(load_problem())["orders"]
    except SourceError as error:
        return run_validation(), [str(error)]
    return result, [line for one in result.validated for line in one.warnings]


def run_validation() -> TableResult:
    problem = load_problem()
    return validate_new(problem, problem.table("orders"), Tables(), START)


def test_a_new_column_is_ignored_reported_or_refused_as_declared(folder: Path) -> None:
    region = ["east"] * 10 + [""] * 30
    first, silent = deliver(folder, region=region)
    assert (len(first.validated), silent) == (1, [])
    replace_text(folder / "problem.py", KEY, f'{KEY} on_new_column="warn",')
    second, (warning,) = deliver(folder, region=region, fee=1)
    assert second.refused == ()
    assert "orders-9.csv: has undeclared columns: 'region' (filled in 10 of 40 rows), 'fee' (filled in 40" in (warning)
    replace_text(folder / "problem.py", '"warn"', '"fail"')
    third, (fault,) = deliver(folder, region=region)
    assert "orders-9.csv: has undeclared column: 'region' (filled in 10 of 40 rows)" in fault
    assert len(third.refused) == 1
    assert third.refused[0].delivery.rows == 0
    replace_text(folder / "problem.py", '"fail"', '"warn"')
    assert run_data(load_problem())["orders"].refused == (), "the same bytes are accepted now"


def test_a_missing_column_is_refused_or_filled_as_declared(folder: Path) -> None:
    refused, (fault,) = deliver(folder, drop="note")
    assert "has no column 'note'" in fault
    assert "it has 40 rows" in fault
    assert len(refused.refused) == 1
    replace_text(folder / "problem.py", KEY, f'{KEY} on_missing_column="ignore",')
    assert run_data(load_problem())["orders"].refused == (), "the same bytes are accepted now"
    added = [row for row in rows_of("orders").values() if row["number"] >= 5000]
    assert [row["note"] for row in added] == [None] * 40
    replace_text(folder / "problem.py", '"ignore"', '"warn"')
    replace_text(folder / "problem.py", '"items": Integer()', '"items": Integer(default=1)')
    result, (warning,) = deliver(folder, drop="items", note="x")
    assert result.refused == ()
    assert "orders-9.csv: has no column 'items': its default 1 in 40 rows" in warning
    current = [row for row in rows_of("orders").values() if row["number"] >= 5000 and not row["_tc_superseded_at"]]
    assert {(row["items"], row["note"]) for row in current} == {(1, "x")}
    result, _ = deliver(folder, drop="express", note="y")
    assert "never missing" not in str(result.validated[0].warnings)
    assert "40 of 40 rows are invalid" in result.refused[0].sentence()
