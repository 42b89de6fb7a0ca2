"""Gates: may a model become champion?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from truecourse.encoding import Array
from truecourse.errors import ModelError
from truecourse.metrics import summary
from truecourse.pages import number
from truecourse.problem import BeatsBaseline, BeatsChampion, Gate, MetricGate, SliceFloor

Verdict = dict[str, Any]
"""{"gate": what was asked, "passed": bool, "detail": the figures}."""


@dataclass(frozen=True)
class Evidence:
    """What gates judge: metrics by name, samples of the loss of each model on the same rows and resamples, slices.

    `champion`: the version in office, None if there is none. `losses` holds "model", "constant" and, where it could
    score these rows, "champion"; `reason` says why it could not."""

    metric: str
    metrics: Mapping[str, Mapping[str, float | None]]
    losses: Mapping[str, Array]
    slices: list[dict[str, Any]]
    champion: int | None = None
    reason: str = ""


def judge(gates: tuple[Gate, ...], evidence: Evidence) -> list[Verdict]:
    """One verdict a gate, in order. Raises ModelError for a gate on a metric that this kind of problem has not."""
    return [_judge(gate, evidence) for gate in gates]


def _judge(gate: Gate, evidence: Evidence) -> Verdict:
    if isinstance(gate, MetricGate):
        return _metric(gate, evidence)
    if isinstance(gate, SliceFloor):
        return _slices(gate, evidence)
    if isinstance(gate, BeatsBaseline):
        return _baseline(evidence)
    return _champion(gate, evidence)


def _verdict(gate: str, passed: bool, detail: str) -> Verdict:
    return {"gate": gate, "passed": passed, "detail": detail}


def _bounds(gate: MetricGate | SliceFloor) -> str:
    limits = [("at most", gate.max), ("at least", gate.min)]
    return f"{gate.metric} " + " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


def _within(gate: MetricGate | SliceFloor, value: float | None) -> bool:
    """An undefined metric keeps no bound."""
    return value is not None and (gate.max is None or value <= gate.max) and (gate.min is None or value >= gate.min)


def _value(metrics: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    if name not in metrics:
        raise ModelError(f"there is no metric {name}", where="gates", cure=f"choose one of {', '.join(metrics)}")
    return metrics[name]["value"]


def _told(value: float | None) -> str:
    return "undefined" if value is None else number(value, 2 if abs(value) >= 10 else 4)


def _metric(gate: MetricGate, evidence: Evidence) -> Verdict:
    value = _value(evidence.metrics, gate.metric)
    return _verdict(_bounds(gate), _within(gate, value), _told(value))


def _slices(gate: SliceFloor, evidence: Evidence) -> Verdict:
    held = [s for s in evidence.slices if s["column"] == gate.column and s["rows"] >= gate.rows]
    failing = [s for s in held if not _within(gate, _value(s["metrics"], gate.metric))]
    told = [f"{s['value']}: {_told(s['metrics'][gate.metric]['value'])}" for s in failing or held]
    words = ("fails on " if failing else "every slice: ") + ", ".join(told[:8]) if told else "no slice is large enough"
    return _verdict(f"{_bounds(gate)} on every {gate.column}", not failing, words)


def _baseline(evidence: Evidence) -> Verdict:
    difference = summary(evidence.losses["model"] - evidence.losses["constant"])
    better = difference["high"] is not None and difference["high"] < 0
    return _verdict(f"{evidence.metric} below the constant's", better, _difference(difference))


def _champion(gate: BeatsChampion, evidence: Evidence) -> Verdict:
    asked = f"{evidence.metric} not above the champion's" + (f" + {gate.margin:g}" if gate.margin else "")
    if evidence.champion is None:
        return _verdict(asked, True, "there is no champion yet")
    if "champion" not in evidence.losses:
        return _verdict(asked, False, f"version {evidence.champion} cannot be compared: {evidence.reason}")
    difference = summary(evidence.losses["model"] - evidence.losses["champion"])
    low = np.inf if difference["low"] is None else difference["low"]
    return _verdict(asked, bool(low <= gate.margin), f"version {evidence.champion}: {_difference(difference)}")


def _difference(difference: Mapping[str, float | None]) -> str:
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return "difference undefined"
    return f"difference {value:+.4g} ({low:+.4g} to {high:+.4g})"
