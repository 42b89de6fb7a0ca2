"""Decision rules: what a Decision accepts, how a threshold is chosen, and that every path decides equally."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.test_training import frame, problem
from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.evaluation.decision_report import decision_report
from truecourse.evaluation.model_evaluation import HeldOut, collect_evidence
from truecourse.evaluation.paired_comparison import Champion, compare
from truecourse.modeling.decisions import DecisionRule, calibrated_threshold, choose_rule, default_codes, row_costs
from truecourse.modeling.prediction import predict_rows, predicted_label, predicted_labels, scores
from truecourse.modeling.training import matrix_of, rows_of, train
from truecourse.problem import Decision
from truecourse.problem.definition import Kind
from truecourse.serving.contract import Contract, contract_bytes
from truecourse.serving.response_schemas import response_schemas

CLASSES = ("kept", "churned")
COSTS = {"churned": {"kept": 9.0}, "kept": {"churned": 1.0}}
MATRIX = [[0.0, 1.0], [9.0, 0.0]]


@pytest.mark.parametrize("given", [{}, {"recall": 0.5, "precision": 0.5}, {"costs": COSTS, "capacity": 0.1}])
def test_a_decision_has_exactly_one_target(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        Decision(**given)


@st.composite
def validation_rows(draw: st.DrawFn) -> tuple[Array, Array]:
    """Labels and float32 scores with ties, at least five rows of each class."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = np.concatenate([np.repeat([0, 1], 5), random.integers(0, 2, draw(st.integers(0, 80)))])
    noisy = np.clip(0.5 * labels + random.random(len(labels)) * 0.5, 0, 1)
    return labels.astype(np.float32), np.round(noisy, draw(st.integers(1, 5))).astype(np.float32)


SHARES = st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9, 0.99])


def chosen(decision: Decision, labels: Array, output: Array) -> DecisionRule:
    rule = choose_rule(decision, "binary", CLASSES, labels, output)
    assert rule is not None
    assert rule.rows == len(labels)
    return rule


@given(validation_rows(), SHARES)
def test_the_capacity_holds_on_the_validation_rows_and_is_used_as_far_as_ties_allow(
    rows: tuple[Array, Array], share: float
) -> None:
    labels, output = rows
    rule = chosen(Decision(capacity=share), labels, output)
    decided = rule.codes(output)
    assert decided.mean() <= share
    lower = output[decided == 0].max(initial=-1.0)  # the next lower threshold
    assert (output >= lower).mean() > share
    assert rule.reached == (decided.sum() > 0)


@given(validation_rows(), SHARES)
def test_the_recall_is_reached_by_the_largest_threshold(rows: tuple[Array, Array], share: float) -> None:
    labels, output = rows
    decided = chosen(Decision(recall=share), labels, output).codes(output)
    assert decided[labels == 1].mean() >= share - 1e-9
    higher = output > output[decided == 1].min()
    assert higher[labels == 1].mean() < share


@given(validation_rows(), SHARES)
def test_the_precision_is_reached_by_the_least_threshold_or_none_reaches_it(
    rows: tuple[Array, Array], share: float
) -> None:
    labels, output = rows
    rule = chosen(Decision(precision=share), labels, output)
    decided = rule.codes(output)
    every = {float(t): labels[output >= t].mean() for t in np.unique(output)}
    assert rule.reached == any(precision >= share for precision in every.values())
    if rule.reached:
        assert labels[decided == 1].mean() >= share
        assert not any(precision >= share for t, precision in every.items() if t < rule.threshold)  # type: ignore[operator]
    else:
        assert labels[decided == 1].mean() == max(every.values())


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_threshold_of_costs_corrects_scores_that_are_too_sure_or_too_vague(slope: float) -> None:
    """On calibrated log-odds the threshold is the costs' probability; on scaled ones it moves with the scale."""
    random = np.random.default_rng(3)
    margins = random.normal(0, 2, 40_000)
    labels = (random.random(len(margins)) < 1 / (1 + np.exp(-margins))).astype(np.float32)
    output = (1 / (1 + np.exp(-slope * margins))).astype(np.float32)
    rule = chosen(Decision(costs=COSTS), labels, output)
    assert rule.threshold is not None
    assert np.log(rule.threshold / (1 - rule.threshold)) == pytest.approx(-slope * np.log(9), abs=0.15)
    if slope == 1.0:
        assert rule.threshold == pytest.approx(0.1)
    cost = {t: row_costs(MATRIX, labels, (output >= t).astype(int)).mean() for t in np.linspace(0.02, 0.98, 97)}
    own = row_costs(MATRIX, labels, rule.codes(output)).mean()
    assert own <= 1.02 * min(cost.values())
    assert own < 0.8 * cost[0.5]


def test_perfect_scores_of_few_rows_give_a_threshold_between_the_classes() -> None:
    labels, output = np.repeat([0.0, 1.0], 6), np.repeat([0.01, 0.99], 6)
    assert 0.01 < calibrated_threshold(0.1, labels, output) < 0.99


@pytest.mark.parametrize(
    ("kind", "decision", "message"),
    [
        ("regression", Decision(recall=0.5), "does not apply to a regression"),
        ("multiclass", Decision(capacity=0.5), "does not apply to a multiclass"),
        ("binary", Decision(costs={"lost": {"kept": 1.0}}), "unknown class lost"),
        ("binary", Decision(costs={"churned": {"kept": 1.0}}), "never worth predicting"),
    ],
)
def test_a_decision_that_does_not_fit_is_an_error(kind: Kind, decision: Decision, message: str) -> None:
    labels, output = np.repeat([0.0, 1.0], 20), np.linspace(0, 1, 40)
    with pytest.raises(ModelError, match=message):
        choose_rule(decision, kind, CLASSES, labels, output)


def test_too_few_validation_rows_of_a_class_are_an_error() -> None:
    with pytest.raises(ModelError, match=r"4 validation rows of class churned.*needs 5"):
        choose_rule(Decision(recall=0.5), "binary", CLASSES, np.repeat([0.0, 1.0], [30, 4]), np.linspace(0, 1, 34))


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_single_rows_and_batches_decide_equally(outputs: list[list[float]]) -> None:
    several = np.array(outputs, dtype=np.float32)
    nine = ((0.0, 1.0, 0.7), (3.1, 0.0, 1.0), (9.0, 2.3, 0.0))
    for kind, classes, output, rule in (
        ("multiclass", ("a", "b", "c"), several, DecisionRule(target="costs", costs=nine, rows=9)),
        ("binary", CLASSES, several[:, 0], DecisionRule(target="recall", threshold=float(several[0, 0]), rows=9)),
    ):
        together = predicted_labels(kind, classes, output, rule).tolist()  # type: ignore[arg-type]
        assert [predicted_label(kind, classes, row, rule) for row in output.tolist()] == together  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "timed"), [("binary", True), ("binary", False), ("multiclass", True)])
def test_a_trained_models_contract_decides_as_its_training_chose(kind: Kind, timed: bool, home: object) -> None:
    costs = {"0": {"1": 1.0, "2": 2.0}, "1": {"0": 9.0, "2": 1.0}, "2": {"0": 9.0, "1": 5.0}}
    declared = costs if kind == "multiclass" else {"1": {"0": 9.0}, "0": {"1": 1.0}}
    spec = replace(problem(kind, timed, rounds=20), decision=Decision(costs=declared))
    rows = frame(spec, 1200)
    trained = train(spec, rows)
    model, classes = trained.model, trained.model.vocabulary.classes
    assert model.decision is not None
    contract = Contract.from_json(contract_bytes(spec, model.vocabulary, rows, {"decision": model.decision}))
    assert contract.decision == model.decision
    schema = response_schemas(contract)["Prediction"]["properties"]["prediction"]
    assert "least expected cost" in schema["description"]
    test = rows_of(rows, "test")
    columns, matrix = columns_of(test, model.vocabulary.features), matrix_of(model.vocabulary, test)
    batch = scores(model, columns, explain=False)
    assert [row["prediction"] for row in predict_rows(model, columns, matrix)] == batch.predicted.tolist()
    assert batch.predicted.tolist() != predicted_labels(kind, classes, batch.output).tolist()
    held_out = HeldOut(spec, model, rows, test)
    report = held_out.decision
    assert report is not None
    assert sum(map(sum, report["confusion"])) == len(test)
    labels = model.vocabulary.labels(test)
    codes = model.decision.codes(batch.output)
    assert report["metrics"]["cost"]["value"] == pytest.approx(row_costs(model.decision.costs, labels, codes).mean())
    assert report["metrics"]["cost_difference"]["value"] < 0
    evidence = collect_evidence(held_out, held_out.metrics(held_out.core_predictions), [], None)
    assert evidence.metrics["cost"] == report["metrics"]["cost"]
    assert without_rule(held_out) is None


def without_rule(test: HeldOut) -> dict[str, Any] | None:
    bare = replace(test.model, decision=None)
    return decision_report(bare, test.labels, test.core_predictions["model"], test.blocks, True)


def test_the_champions_cost_is_that_of_its_own_rule(home: object) -> None:
    costs = {"1": {"0": 9.0}, "0": {"1": 1.0}}
    spec = replace(problem(rounds=20), decision=Decision(costs=costs))
    rows = frame(spec, 2500)
    model = train(spec, rows).model
    test = rows_of(rows, "test")
    without = Champion(1, replace(model, decision=None), rows)
    comparison = compare(spec, test, model, without)
    assert comparison.cost is not None
    labels, output = model.vocabulary.labels(test), model.predict(matrix_of(model.vocabulary, test))
    assert model.decision is not None
    own, default = (
        row_costs(MATRIX, labels, one).mean() for one in (model.decision.codes(output), default_codes(output))
    )
    assert comparison.cost["value"] == pytest.approx(own - default)
    assert own < default
    assert comparison.loss == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert compare(spec, test, replace(model, decision=None), without).cost is None
    same = compare(spec, test, model, Champion(1, model, rows)).cost
    assert same is not None
    assert same["value"] == 0


def test_a_report_counts_by_actual_and_then_by_predicted_class() -> None:
    spec = problem(rounds=5)
    rows = frame(spec, 400)
    model = replace(train(spec, rows).model, decision=DecisionRule(target="recall", value=0.5, threshold=0.5, rows=9))
    labels, output = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.7, 0.2, 0.4, 0.9], dtype=np.float32)
    report = decision_report(model, labels, output, np.arange(5), False)
    assert report is not None
    assert report["confusion"] == [[2, 1], [1, 1]]
    values = {name: figure["value"] for name, figure in report["metrics"].items()}
    assert values == pytest.approx({"precision": 0.5, "recall": 0.5, "positive_share": 0.4})
