"""Gates: may a model become champion?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truecourse.comparison import Comparison, Figure
from truecourse.encoding import Array
from truecourse.errors import ModelError
from truecourse.metrics import summary
from truecourse.pages import number
from truecourse.promotion import BeatsBaseline, BeatsChampion, Gate, MetricGate, SliceFloor

Verdict = dict[str, Any]
"""{"gate": what was asked, "passed": bool, "detail": the figures}."""


@dataclass(frozen=True)
class Evidence:
    """What gates judge: metrics by name, samples of the loss of "model" and "constant" on the same rows and resamples,
    slices, and the comparison with the champion; None where no other version is in office."""

    metric: str
    metrics: Mapping[str, Mapping[str, float | None]]
    losses: Mapping[str, Array]
    slices: list[dict[str, Any]]
    comparison: Comparison | None = None


def judge(gates: tuple[Gate, ...], evidence: Evidence) -> list[Verdict]:
    """The verdicts, in the gates' order. Raises ModelError for a gate on a metric that this kind of problem has not."""
    return [verdict for gate in gates for verdict in _judge(gate, evidence)]


def failed(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if not verdict["passed"]]


def _judge(gate: Gate, evidence: Evidence) -> list[Verdict]:
    if isinstance(gate, MetricGate):
        return [_metric(gate, evidence)]
    if isinstance(gate, SliceFloor):
        return [_slices(gate, evidence)]
    if isinstance(gate, BeatsBaseline):
        return [_baseline(evidence)]
    return _champion(gate, evidence.metric, evidence.comparison)


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


def _champion(gate: BeatsChampion, metric: str, found: Comparison | None) -> list[Verdict]:
    asked = f"{metric} below the champion's" + (f" {gate.margin:+g}" if gate.margin else "")
    if found is None:
        return [_verdict(asked, True, "no other version is in office")]
    if found.loss is None or found.calibration is None:
        return [_verdict(asked, False, f"version {found.champion} cannot be compared: {found.reason}")]
    high, days = found.loss["high"], f" of {found.days} days" if found.days else ""
    better = high is not None and high < gate.margin
    told = f"version {found.champion}: {_difference(found.loss)} on {found.rows:,} rows{days} that neither learned from"
    calibration = "calibration not worse than the champion's"
    verdicts = [
        _verdict(asked, better, told),
        _verdict(calibration, _kept(found.calibration), _difference(found.calibration)),
    ]
    return [*verdicts, _every_slice(metric, found.slices)] if found.slices else verdicts


def _kept(difference: Figure) -> bool:
    """Not significantly above zero. An undefined difference keeps nothing."""
    return difference["low"] is not None and difference["low"] <= 0


def _every_slice(metric: str, slices: tuple[dict[str, Any], ...]) -> Verdict:
    worse = [part for part in slices if not _kept(part["difference"])]
    shown = worse or sorted(slices, key=lambda part: -part["difference"]["low"])[:1]
    told = ", ".join(f"{part['column']} {part['value']}: {_difference(part['difference'])}" for part in shown[:8])
    columns = ", ".join(dict.fromkeys(part["column"] for part in slices))
    said = f"worse on {told}" if worse else f"none of {len(slices)} is worse; the nearest to it is {told}"
    return _verdict(f"{metric} on every {columns} not worse than the champion's", not worse, said)


def _difference(difference: Mapping[str, float | None]) -> str:
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return "difference undefined"
    return f"difference {value:+.4g} ({low:+.4g} to {high:+.4g})"
