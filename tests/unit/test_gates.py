"""A gate is open exactly when what it asks is so."""

import dataclasses

import numpy as np
import pytest

from truecourse.comparison import Comparison
from truecourse.errors import ModelError
from truecourse.gates import Evidence, judge
from truecourse.problem import BeatsBaseline, BeatsChampion, Gate, MetricGate, SliceFloor

NOISE = np.random.default_rng(0).normal(0, 0.01, 401)


def figure(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value}


def part(value: str, rows: int, auc: float | None) -> dict[str, object]:
    return {"column": "depot", "value": value, "rows": rows, "metrics": {"auc": figure(auc)}}


EVIDENCE = Evidence(
    metric="log_loss",
    metrics={"auc": figure(0.75), "log_loss": figure(0.48), "undefined": figure(None)},
    losses={"model": 0.48 + NOISE, "constant": 0.53 + NOISE},
    slices=[part("north", 900, 0.76), part("south", 500, 0.70), part("tiny", 40, 0.40)],
)


def passes(gate: Gate, **changes: object) -> bool:
    (verdict,) = judge((gate,), dataclasses.replace(EVIDENCE, **changes))
    assert verdict["gate"]
    assert verdict["detail"]
    return bool(verdict["passed"])


def test_a_metric_gate_keeps_both_bounds_inclusive() -> None:
    assert passes(MetricGate("auc", min=0.75))
    assert not passes(MetricGate("auc", min=0.7501))
    assert passes(MetricGate("log_loss", max=0.48, min=0.1))
    assert not passes(MetricGate("log_loss", max=0.47))
    assert not passes(MetricGate("undefined", max=1))
    with pytest.raises(ModelError, match=r"no metric ap.*\n.*auc, log_loss"):
        passes(MetricGate("ap", max=1))


def test_the_baseline_is_beaten_with_the_whole_paired_interval() -> None:
    assert passes(BeatsBaseline())
    assert not passes(BeatsBaseline(), losses={"model": 0.54 + NOISE, "constant": 0.53 + NOISE})
    # Both move with the days together: unpaired intervals overlap, the paired difference is clear.
    days = np.random.default_rng(1).normal(0, 0.2, 401)
    assert passes(BeatsBaseline(), losses={"model": 0.50 + days, "constant": 0.51 + days})
    assert not passes(BeatsBaseline(), losses={"model": 0.50 + days, "constant": 0.51 - days})


def interval(low: float, high: float) -> dict[str, float | None]:
    return {"value": (low + high) / 2, "low": low, "high": high}


def against(gate: BeatsChampion, **changes: object) -> list[dict[str, object]]:
    better, same = interval(-0.03, -0.01), interval(-0.02, 0.02)
    figures = {"rows": 900, "days": 20, "loss": better, "calibration": same, **changes}
    return judge((gate,), dataclasses.replace(EVIDENCE, comparison=Comparison(3, **figures)))


def passed(verdicts: list[dict[str, object]]) -> list[object]:
    return [verdict["passed"] for verdict in verdicts]


def test_only_a_clearly_better_model_ousts_the_champion_and_a_margin_asks_for_less() -> None:
    def opens(low: float, high: float, margin: float = 0.0) -> object:
        return passed(against(BeatsChampion(margin=margin), loss=interval(low, high)))[0]

    assert opens(-0.03, -0.001)
    assert not opens(-0.03, 0.0)
    assert not opens(-0.03, 0.001)  # better, and within what chance does
    assert opens(-0.03, 0.001, margin=0.002)
    assert not opens(0.001, 0.003, margin=0.002)
    assert opens(-0.01, 0.003, margin=0.004)
    assert not opens(-0.03, -0.001, margin=-0.01)


def test_a_better_model_must_keep_calibration_and_every_slice() -> None:
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


def test_without_a_champion_the_gate_is_open_and_with_one_that_cannot_be_compared_it_is_shut() -> None:
    assert passes(BeatsChampion())
    shut = dataclasses.replace(EVIDENCE, comparison=Comparison(3, "its inputs x are missing"))
    (verdict,) = judge((BeatsChampion(),), shut)
    assert not verdict["passed"]
    assert "version 3 cannot be compared: its inputs x are missing" in str(verdict["detail"])


def test_a_floor_holds_on_every_large_slice() -> None:
    assert passes(SliceFloor("depot", "auc", min=0.7))
    assert not passes(SliceFloor("depot", "auc", min=0.71))
    assert passes(SliceFloor("depot", "auc", min=0.71, rows=600))
    assert not passes(SliceFloor("depot", "auc", min=0.7, rows=10))
    assert not passes(SliceFloor("depot", "auc", min=0.7), slices=[part("odd", 900, None)])
    assert passes(SliceFloor("other", "auc", min=0.9))
    (verdict,) = judge((SliceFloor("depot", "auc", min=0.75),), EVIDENCE)
    assert "south: 0.7000" in verdict["detail"]
    assert "north" not in verdict["detail"]
