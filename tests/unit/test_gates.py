"""A gate is open exactly when what it asks is so."""

import dataclasses

import numpy as np
import pytest

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


def test_the_champion_holds_only_against_a_clearly_worse_model() -> None:
    def against(loss: np.ndarray, margin: float = 0.0) -> bool:
        return passes(BeatsChampion(margin=margin), champion=3, losses={**EVIDENCE.losses, "champion": loss})

    assert against(EVIDENCE.losses["model"])
    assert against(0.50 + NOISE)
    assert against(0.475 - NOISE)  # worse, but within what chance does
    assert not against(0.46 + NOISE)
    assert against(0.46 + NOISE, margin=0.03)


def test_without_a_champion_the_gate_is_open_and_with_one_that_cannot_be_compared_it_is_shut() -> None:
    assert passes(BeatsChampion())
    (verdict,) = judge((BeatsChampion(),), dataclasses.replace(EVIDENCE, champion=3, reason="its inputs x are missing"))
    assert not verdict["passed"]
    assert "its inputs x are missing" in verdict["detail"]


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
