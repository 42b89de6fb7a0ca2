"""Realised decisions: daily counts give the cost of their rows, and a lasting change of scores moves the threshold."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.closed_cohorts import cohort_of
from truecourse.arrays import Array
from truecourse.evaluation.decision_report import decision_report
from truecourse.modeling.decisions import DecisionRule, row_costs
from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows, sums_by_bin
from truecourse.monitoring.quality.realised_decisions import (
    compare_thresholds,
    count_decisions,
    decision_metrics,
    find_threshold_drift,
)
from truecourse.problem.definition import Kind

EDGES = np.linspace(0, 1, 41)[1:-1]
TWO = DecisionRule(target="costs", threshold=0.125, costs=((0.0, 1.0), (7.0, 0.0)), rows=500)
THREE = DecisionRule(target="costs", costs=((0.0, 1.0, 2.0), (5.0, 0.0, 1.0), (3.0, 3.0, -1.0)), rows=500)
RECALL = DecisionRule(target="recall", value=0.8, threshold=0.3, rows=500)


def model_of(rule: DecisionRule | None) -> Any:
    """Return what a model has of a decision: its rule and classes."""
    classes = ("a", "b", "c") if rule is THREE else ("a", "b")
    return SimpleNamespace(decision=rule, vocabulary=SimpleNamespace(classes=classes))


def rows(kind: Kind, random: np.random.Generator, count: int = 400, power: float = 1.0) -> tuple[Array, Array]:
    """Labels and scores: calibrated ones for `power` 1."""
    if kind == "multiclass":
        output = random.dirichlet([0.5, 0.5, 0.5], count)
        return (output.cumsum(axis=1) < random.random(count)[:, None]).sum(axis=1), output
    scores = random.random(count)
    return (random.random(count) < scores**power).astype(np.int64), scores


def cohort(rule: DecisionRule | None, kind: Kind, day: int, labels: Array, output: Array) -> Cohort:
    scored = ScoredRows.of(kind, labels, output)
    return cohort_of(
        scored, day, bins=sums_by_bin(EDGES, scored), confusion=count_decisions(model_of(rule), labels, output)
    )


@pytest.mark.parametrize(("rule", "kind"), [(TWO, "binary"), (RECALL, "binary"), (THREE, "multiclass")])
def test_counts_of_days_give_the_metrics_of_their_rows(rule: DecisionRule, kind: Kind) -> None:
    random = np.random.default_rng(0)
    parts = [rows(kind, random, 100 + 20 * day) for day in range(12)]
    days = [cohort(rule, kind, day, *part) for day, part in enumerate(parts)]
    labels, output = (np.concatenate(side) for side in zip(*parts, strict=True))
    blocks = np.repeat(np.arange(12), [len(part[0]) for part in parts])
    report = decision_report(model_of(rule), labels, output, blocks, in_time=True)
    assert report is not None
    found = decision_metrics(rule, [Cohort.model_validate_json(one.model_dump_json()) for one in days])
    assert set(found) == set(report["metrics"]) - {"default_cost", "cost_difference"}
    for name, figure in found.items():
        assert figure == pytest.approx(report["metrics"][name])


def test_cohorts_of_earlier_releases_and_models_without_a_rule_have_no_figures() -> None:
    random = np.random.default_rng(0)
    days = [cohort(None, "binary", day, *rows("binary", random)) for day in range(9)]
    assert not any(one.confusion for one in days)
    assert decision_metrics(TWO, days) == {}
    assert compare_thresholds(TWO, EDGES, days) is None


def test_the_best_edge_costs_what_deciding_by_it_costs() -> None:
    random = np.random.default_rng(1)
    parts = [rows("binary", random) for _ in range(10)]
    compared = compare_thresholds(TWO, EDGES, [cohort(TWO, "binary", day, *part) for day, part in enumerate(parts)])
    assert compared is not None
    labels, scores = (np.concatenate(side) for side in zip(*parts, strict=True))
    costs = [row_costs(TWO.costs, labels, (scores >= edge).astype(np.int64)).mean() for edge in EDGES]
    own = row_costs(TWO.costs, labels, TWO.codes(scores)).mean()
    assert compared["best"] == pytest.approx(EDGES[int(np.argmin(costs))])
    assert compared["saving"]["value"] == pytest.approx(own - min(costs))


def test_a_right_threshold_is_kept_and_a_wrong_one_found() -> None:
    """In usual worlds the best of 39 edges saves only noise; with scores that lie, the saving is beyond it."""
    found = {1.0: 0, 4.0: 0}
    for power in found:
        for seed in range(20):
            random = np.random.default_rng(seed)
            days = [cohort(TWO, "binary", day, *rows("binary", random, power=power)) for day in range(28)]
            findings = find_threshold_drift(compare_thresholds(TWO, EDGES, days))
            assert all((one.cause, one.page) == ("threshold drift", False) for one in findings)
            found[power] += len(findings)
    assert found[1.0] <= 2
    assert found[4.0] == 20
    few = [cohort(TWO, "binary", day, *rows("binary", random, power=4.0)) for day in range(6)]
    assert compare_thresholds(TWO, EDGES, few) is None
    assert compare_thresholds(RECALL, EDGES, days) is None
