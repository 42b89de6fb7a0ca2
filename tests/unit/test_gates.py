"""A gate passes exactly if its condition holds."""

import dataclasses
from typing import Any

import pytest

from truecourse.errors import ModelError
from truecourse.evaluation.gates import Evidence, Sample, apply_gates, failed_gates, summarize, unknown_gates
from truecourse.evaluation.paired_comparison import Comparison
from truecourse.problem import BeatsBaseline, BeatsChampion, EveryClass, MetricGate, NotWorseThanLinear, SliceFloor
from truecourse.problem.promotion import Gate


def interval(low: float, high: float) -> dict[str, float | None]:
    return {"value": (low + high) / 2, "low": low, "high": high}


def figure(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value}


def part(value: str, rows: int, auc: float | None) -> dict[str, Any]:
    return {"column": "depot", "value": value, "rows": rows, "metrics": {"auc": figure(auc)}}


EVIDENCE = Evidence(
    metric="log_loss",
    metrics={"auc": figure(0.75), "log_loss": figure(0.48), "undefined": figure(None)},
    differences=lambda name: {"constant": interval(-0.06, -0.04), "linear": interval(-0.01, 0.01)}[name],
    constant=0.53,
    slices=[part("north", 900, 0.76), part("south", 500, 0.70), part("tiny", 40, 0.40)],
    sample=Sample(1440, 30, {"0": (4000, 1000), "1": (1000, 440)}),
)


def passes(gate: Gate, **changes: Any) -> bool:
    (result,) = apply_gates((gate,), dataclasses.replace(EVIDENCE, **changes))
    assert result["gate"]
    assert result["detail"]
    return bool(result["passed"])


def test_a_metric_gates_bounds_are_inclusive() -> None:
    assert passes(MetricGate("auc", min=0.75))
    assert not passes(MetricGate("auc", min=0.7501))
    assert passes(MetricGate("log_loss", max=0.48, min=0.1))
    assert not passes(MetricGate("log_loss", max=0.47))
    assert not passes(MetricGate("undefined", max=1))
    with pytest.raises(ModelError, match=r"no metric ap.*\n.*auc, log_loss"):
        passes(MetricGate("ap", max=1))


def test_beating_the_baseline_needs_the_whole_interval() -> None:
    assert passes(BeatsBaseline())
    assert not passes(BeatsBaseline(), differences=lambda _: interval(-0.06, 0.0))
    assert not passes(BeatsBaseline(), differences=lambda _: interval(0.01, 0.03))
    assert not passes(BeatsBaseline(), differences=lambda _: figure(None))


def test_a_significantly_better_linear_baseline_fails_the_gate() -> None:
    assert passes(NotWorseThanLinear())
    assert passes(NotWorseThanLinear(), differences=lambda _: interval(0.0053, 0.03))
    assert not passes(NotWorseThanLinear(), differences=lambda _: interval(0.0054, 0.03))
    assert not passes(NotWorseThanLinear(margin=0.0), differences=lambda _: interval(0.0001, 0.03))
    assert not passes(NotWorseThanLinear(), differences=lambda _: figure(None))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(29, 29, {"0": (90, 20), "1": (90, 9)}), "too few rows: 29 test rows, 30 needed"),
        (Sample(1, 1), "too few rows: 1 test row, 30 needed"),
        (Sample(500, 1), "too few rows: all test rows are from one day"),
        (Sample(90, 90, {"0": (90, 86), "1": (9, 4)}), "too few rows: 4 test rows of class 1, 5 needed"),
        (Sample(90, 90, {"a": (90, 87), "b": (9, 2), "c": (9, 1)}), "3 test rows of classes other than a"),
    ],
)
def test_too_few_rows_are_unknown(sample: Sample, message: str) -> None:
    for gate in (BeatsBaseline(), NotWorseThanLinear()):
        (result,) = apply_gates((gate,), dataclasses.replace(EVIDENCE, sample=sample))
        assert (result["result"], result["passed"]) == ("unknown", False)
        assert message in result["detail"]
        assert (failed_gates([result]), unknown_gates([result])) == ([], [result])
        assert summarize([result]) == f"unknown: {result['gate']}"


def test_every_class_must_be_trained_and_tested() -> None:
    def class_results(**classes: tuple[int, int]) -> list[tuple[str, str]]:
        found = apply_gates((EveryClass(),), dataclasses.replace(EVIDENCE, sample=Sample(90, 90, classes)))
        return [(result["result"], result["detail"]) for result in found]

    assert class_results() == []  # a regression has none
    assert class_results(a=(10, 5), b=(10, 3)) == [("passed", "2 classes, at least 3 test rows of each")]
    assert class_results(a=(10, 5), b=(0, 3), c=(0, 0)) == [("failed", "no training row of class b, c")]
    assert class_results(a=(10, 5), b=(10, 0)) == [("unknown", "too few rows: no test row of class b")]
    (result,) = class_results(a=(10, 5), b=(10, 0), c=(10, 3))
    assert result == ("passed", "2 classes, at least 3 test rows of each; not evaluated, without test rows: class b")


def test_metrics_and_slices_need_rows_too() -> None:
    few = Sample(29, 29)
    (result,) = apply_gates((MetricGate("auc", min=0.5),), dataclasses.replace(EVIDENCE, sample=few))
    assert result["result"] == "unknown"
    assert result["detail"].startswith("0.7500, too few rows")
    assert passes(MetricGate("auc", min=0.5, rows=20), sample=few)
    (result,) = apply_gates((SliceFloor("depot", "auc", min=0.1, rows=1000),), EVIDENCE)
    assert result["result"] == "unknown"


def against(gate: BeatsChampion, **changes: Any) -> list[dict[str, Any]]:
    better, same = interval(-0.03, -0.01), interval(-0.02, 0.02)
    figures = {"rows": 900, "days": 20, "loss": better, "calibration": same, **changes}
    return apply_gates((gate,), dataclasses.replace(EVIDENCE, comparison=Comparison(3, **figures)))


def passed(results: list[dict[str, Any]]) -> list[Any]:
    return [result["passed"] for result in results]


def test_the_champion_loses_only_to_a_significantly_better_model_or_within_a_margin() -> None:
    def opens(low: float, high: float, margin: float = 0.0) -> object:
        return passed(against(BeatsChampion(margin=margin), loss=interval(low, high)))[0]

    assert opens(-0.03, -0.001)
    assert not opens(-0.03, 0.0)
    assert not opens(-0.03, 0.001)  # better, and within what chance does
    assert opens(-0.03, 0.001, margin=0.002)
    assert not opens(0.001, 0.003, margin=0.002)
    assert opens(-0.01, 0.003, margin=0.004)
    assert not opens(-0.03, -0.001, margin=-0.01)


def test_a_better_model_must_not_lose_calibration_or_a_slice() -> None:
    north = {"column": "depot", "value": "north", "rows": 300, "difference": interval(-0.05, -0.01)}
    south = {"column": "depot", "value": "south", "rows": 200, "difference": interval(-0.01, 0.02)}
    worse = {"column": "carrier", "value": "bike", "rows": 100, "difference": interval(0.005, 0.02)}
    assert passed(against(BeatsChampion())) == [True, True]
    assert passed(against(BeatsChampion(), calibration=interval(0.001, 0.02))) == [True, False]
    assert passed(against(BeatsChampion(), slices=(north, south))) == [True, True, True]
    loss, _, slices = against(BeatsChampion(), slices=(north, south, worse))
    assert loss["passed"]
    assert "version 3: difference -0.02 (-0.03 to -0.01) on 900 rows of 20 days" in str(loss["detail"])
    assert not slices["passed"]
    assert slices["detail"] == "worse on carrier bike: difference +0.0125 (+0.005 to +0.02)"
    assert "depot, carrier" in str(slices["gate"])


def test_the_gate_passes_without_champion_and_fails_if_it_cannot_be_compared() -> None:
    assert passes(BeatsChampion())
    shut = dataclasses.replace(EVIDENCE, comparison=Comparison(3, "its inputs x are missing"))
    (result,) = apply_gates((BeatsChampion(),), shut)
    assert not result["passed"]
    assert "version 3 cannot be compared: its inputs x are missing" in str(result["detail"])


def test_a_slice_floor_applies_to_every_large_slice() -> None:
    assert passes(SliceFloor("depot", "auc", min=0.7))
    assert not passes(SliceFloor("depot", "auc", min=0.71))
    assert passes(SliceFloor("depot", "auc", min=0.71, rows=600))
    assert not passes(SliceFloor("depot", "auc", min=0.7, rows=10))
    assert not passes(SliceFloor("depot", "auc", min=0.7), slices=[part("odd", 900, None)])
    assert not passes(SliceFloor("other", "auc", min=0.9))  # none that could tell
    (result,) = apply_gates((SliceFloor("depot", "auc", min=0.75),), EVIDENCE)
    assert "south: 0.7000" in result["detail"]
    assert "north" not in result["detail"]
