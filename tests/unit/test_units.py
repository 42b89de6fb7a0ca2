"""Units of numbers in predictions, explanations, metrics and the contract."""

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from cli.commands.status_report import quality
from cli.terminal.tables import explanation_view
from truecourse.evaluation.model_page import tile
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text
from truecourse.problem.definition import Kind
from truecourse.problem.schema import AnyColumn, shown_unit
from truecourse.statistics.metrics import unit_of
from truecourse.wording import with_unit

FIGURE = {"value": 3.25, "low": 3.0, "high": 3.5}
PREDICTED = {
    "prediction": 47.25, "score": 47.25, "base": 40.0, "margin": 47.25,
    "contributions": [
        {"feature": "distance", "value": 12, "contribution": 7.0},
        {"feature": "price", "value": None, "contribution": 0.25},
    ],
}  # fmt: skip
ANSWER = {"model": {"version": 1}, "answered_by": "x", "predictions": [PREDICTED]}


def problem(label: Label, kind: Kind = "regression", took: AnyColumn | None = None) -> Problem:
    columns = {"distance": Integer(unit="miles"), "price": Float(symbol="€"), "took": took or Float(unit="minutes")}
    return Problem("p", kind=kind, tables=[Table("rows", source=Files("rows.csv"), columns=columns)], label=label)


def render_text(what: RenderableType) -> str:
    output = StringIO()
    Console(width=120, file=output).print(what)
    return output.getvalue()


def test_a_regression_has_its_labels_unit() -> None:
    text = render_text(explanation_view(ANSWER, 10, problem(Label(column="took"))))
    assert "47.25 minutes" in text
    assert "by, minutes" in text
    assert "12 miles" in text
    assert "margin +47.250 minutes" in text
    table = render_text(quality({"model": {"rmse": FIGURE, "r2": FIGURE}}, "minutes"))
    assert "rmse, minutes" in table
    assert "r2," not in table
    assert tile("mae", {"model": {"mae": FIGURE}, "linear": {"mae": FIGURE}}, "minutes")["label"].endswith(", minutes")


def test_classes_are_explained_in_log_odds() -> None:
    binary = problem(Label(column="took"), "binary", Text())
    text = render_text(
        explanation_view({**ANSWER, "predictions": [{**PREDICTED, "prediction": "yes", "score": 0.7}]}, 1, binary)
    )
    assert "by, log-odds" in text
    assert "yes  (score 70.0%)" in text


@pytest.mark.parametrize(
    ("label", "took", "unit"),
    [
        (Label(column="took"), Float(unit="minutes"), "minutes"),
        (Label(column="took", unit="min"), Float(unit="minutes"), "min"),
        (Label(column="took"), Float(symbol="€"), "€"),
        (Label(column="took"), Float(), ""),
    ],
)
def test_a_labels_unit_is_declared_or_its_columns(label: Label, took: AnyColumn, unit: str) -> None:
    assert problem(label, took=took).label_unit == unit
    assert problem(label, took=took).contribution_unit == (unit or "label units")


def test_values_without_unit_have_none() -> None:
    assert (unit_of("rmse", "km"), unit_of("log_loss", ""), unit_of("auc", "km")) == ("km", "nats", "")
    assert (with_unit("RMSE", ""), with_unit("", "km"), with_unit("", "")) == ("RMSE", "km", "")
    assert (shown_unit(Text()), shown_unit(None)) == ("", "")


def test_an_undefined_metric_is_shown_as_such() -> None:
    undefined = {"value": None, "low": None, "high": None}
    assert "undefined" in render_text(quality({"model": {"auc": undefined, "log_loss": FIGURE}}, ""))
