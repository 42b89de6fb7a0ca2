"""Prediction intervals: what is chosen, what it covers, and that every path gives the same bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_training import frame, problem
from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.evaluation.model_evaluation import HeldOut, collect_evidence
from truecourse.lineage.prediction_links import answer_links
from truecourse.modeling.intervals import GROUP, IntervalRule, choose_interval, coverage_of
from truecourse.modeling.prediction import predict_rows, scores
from truecourse.modeling.training import matrix_of, rows_of, train
from truecourse.problem import Interval
from truecourse.serving.contract import Contract, contract_bytes
from truecourse.serving.prediction_log import OF_ANSWER
from truecourse.serving.response_schemas import response_schemas


def rows_with_spread(count: int, seed: int, days: int = 0) -> tuple[Array, Array, Array, Array]:
    """Encoded rows of a number and a category with missing values, labels, predictions and blocks. Errors grow with the
    number, are three times as large in one category, and those of one day are correlated."""
    random = np.random.default_rng(seed)
    matrix = np.column_stack([random.gamma(2, 2, count), random.integers(0, 3, count)]).astype(np.float32)
    blocks = np.sort(random.integers(0, days, count)) if days else np.arange(count)
    spread = (0.2 + matrix[:, 0] / 4) * np.where(matrix[:, 1] == 2, 3, 1)
    together = random.normal(size=days)[blocks] if days else 0
    labels = 10 * matrix[:, 0] + spread * (random.normal(size=count) + 0.5 * together)
    predicted = (10 * matrix[:, 0]).astype(np.float32)
    matrix[random.random(count) < 0.05, 0] = np.nan
    return matrix, labels.astype(np.float32), predicted, blocks


@pytest.mark.parametrize("days", [0, 60])
@pytest.mark.parametrize("share", [0.8, 0.9])
def test_new_rows_and_each_large_slice_are_covered(days: int, share: float) -> None:
    rule = choose_interval(Interval(coverage=share), "regression", *rows_with_spread(4000, 1, days))
    matrix, labels, predicted, _ = rows_with_spread(20_000, 2, days)
    inside = coverage_of(labels, rule.bounds(matrix, predicted))
    assert len(rule.below) > 4
    assert abs(inside.mean() - share) < 0.03
    for code in range(3):
        assert abs(inside[matrix[:, 1] == code].mean() - share) < 0.05, code
    large = predicted > np.quantile(predicted, 0.75)
    assert abs(inside[large].mean() - share) < 0.05


@given(st.integers(0, 10_000), st.integers(19, 900), st.sampled_from([0.5, 0.8, 0.9]))
def test_bounds_hold_on_the_validation_rows_and_a_row_alone_has_the_same(seed: int, count: int, share: float) -> None:
    matrix, labels, predicted, blocks = rows_with_spread(count, seed)
    rule = choose_interval(Interval(coverage=share), "regression", matrix, labels, predicted, blocks)
    lower, upper = rule.bounds(matrix, predicted)
    assert (lower <= predicted).all()
    assert (predicted <= upper).all()
    assert coverage_of(labels, (lower, upper)).mean() >= share - 1e-9
    assert len(rule.below) <= max(1, count // GROUP)
    for place in range(0, count, 7):
        alone = rule.bounds(matrix[[place]], predicted[[place]])
        assert (alone[0][0], alone[1][0]) == (lower[place], upper[place])
    assert IntervalRule.model_validate_json(rule.model_dump_json()) == rule


def test_too_few_rows_and_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="18 validation rows: intervals of 90% need 19"):
        choose_interval(Interval(), "regression", *rows_with_spread(18, 1))
    with pytest.raises(ModelError, match="binary"):
        choose_interval(Interval(), "binary", *rows_with_spread(500, 1))


def test_every_path_has_the_bounds_of_the_model() -> None:
    declared = replace(problem("regression"), interval=Interval(coverage=0.8))
    rows = frame(declared)
    model = train(declared, rows).model
    assert model.interval is not None
    assert train(declared, rows).model.interval == model.interval
    test, vocabulary = rows_of(rows, "test"), model.vocabulary
    columns, matrix = columns_of(test, vocabulary.features), matrix_of(vocabulary, test)
    batch = scores(model, columns, explain=False)
    assert batch.bounds is not None
    answers = predict_rows(model, columns, matrix)
    lower, upper = (side.tolist() for side in batch.bounds)
    assert [(one["lower"], one["upper"]) for one in answers] == list(zip(lower, upper, strict=True))
    plain = predict_rows(replace(model, interval=None), columns, matrix)
    assert not {"lower", "upper"} & set(plain[0])
    contract = Contract.from_json(contract_bytes(declared, vocabulary, rows, {"interval": model.interval}))
    assert contract.interval == model.interval
    assert {"lower", "upper"} <= set(response_schemas(contract)["Prediction"]["required"])
    without = contract.model_copy(update={"interval": None})
    assert not {"lower", "upper"} & set(response_schemas(without)["Prediction"]["properties"])
    held = HeldOut(declared, model, rows, test)
    assert held.interval is not None
    inside = coverage_of(vocabulary.labels(test).astype(np.float64), batch.bounds).mean()
    assert held.interval["metrics"]["coverage"]["value"] == pytest.approx(inside)
    assert collect_evidence(held, held.metrics(held.core_predictions), [], None).metrics["coverage"]["value"] == inside


def test_a_trace_computes_the_bounds_again() -> None:
    declared = replace(problem("regression"), interval=Interval(coverage=0.8))
    rows = frame(declared)
    model = train(declared, rows).model
    test = rows_of(rows, "test").slice(0, 1)
    (answer,) = predict_rows(model, columns_of(test, model.vocabulary.features), matrix_of(model.vocabulary, test))
    values = test.select(list(model.vocabulary.features)).to_pylist()[0]
    record = {"id": "one", "values": values, **{name: answer.get(name) for name in OF_ANSWER[3:]}}
    for changed, verified in ((0.0, True), (0.5, False)):
        links = answer_links(declared, model, record | {"upper": record["upper"] + changed})
        (link,) = [one for one in links if one["link"] == "interval"]
        assert link["verified"] is verified
