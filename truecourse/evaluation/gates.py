"""Gates: the conditions for a model to become champion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truecourse.errors import ModelError
from truecourse.evaluation.multiple_comparisons import coverage_of
from truecourse.evaluation.paired_comparison import Comparison
from truecourse.html import number
from truecourse.problem.promotion import (
    BeatsBaseline,
    BeatsChampion,
    EveryClass,
    Gate,
    MetricGate,
    NotWorseThanLinear,
    SliceFloor,
)
from truecourse.statistics.intervals import Estimate
from truecourse.wording import counted

Outcome = Literal["passed", "failed", "unknown"]
"""`unknown`: too little data. A version with an unknown gate is not promoted automatically; a person may promote it."""
GateResult = dict[str, Any]
"""{"gate": the condition, "result": an Outcome, "passed": whether that is "passed", "detail": the figures}."""
TOO_FEW = "too few rows"


@dataclass(frozen=True)
class Sample:
    """The size of an evaluation's data.

    `rows`: test rows. `blocks`: whole days, or blocks of rows without time. `classes`: {class: (training rows, test
    rows)}, empty for a regression."""

    rows: int
    blocks: int
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def shortage(self, rows: int, of_a_class: int = 0) -> str:
        """Describe what is too few for a gate; empty if nothing is."""
        if self.rows < rows:
            return f"{TOO_FEW}: {counted(self.rows, 'test row')}, {rows} needed"
        if self.blocks < 2:
            return f"{TOO_FEW}: all test rows are from one day"
        test = sorted(((count, name) for name, (_, count) in self.classes.items()), reverse=True)
        if len(test) == 2 and test[1][0] < of_a_class:
            few, name = test[1]
            return f"{TOO_FEW}: {counted(few, 'test row')} of class {name}, {of_a_class} needed"
        others = sum(count for count, _ in test[1:])
        if len(test) > 2 and others < of_a_class:
            return f"{TOO_FEW}: {counted(others, 'test row')} of classes other than {test[0][1]}, {of_a_class} needed"
        return ""


@dataclass(frozen=True)
class Evidence:
    """What gates check.

    `metrics`: by name. `differences`: computes the paired difference of the loss to "constant" or "linear", called only
    for gates that need it, since a linear model takes seconds to fit. `constant`: the constant's loss. `comparison`:
    with the champion, None without another champion."""

    metric: str
    metrics: Mapping[str, Mapping[str, float | None]]
    differences: Callable[[str], Estimate]
    constant: float
    slices: list[dict[str, Any]]
    sample: Sample
    comparison: Comparison | None = None


def apply_gates(gates: Sequence[Gate], evidence: Evidence) -> list[GateResult]:
    """Evaluate the gates in order. Raises ModelError for a metric that this kind of problem does not have."""
    return [result for gate in gates for result in _apply(gate, evidence)]


def failed_gates(results: list[GateResult]) -> list[GateResult]:
    return [result for result in results if result["result"] == "failed"]


def unknown_gates(results: list[GateResult]) -> list[GateResult]:
    """Return the gates for which there was too little data."""
    return [result for result in results if result["result"] == "unknown"]


def describe_gate(result: GateResult) -> str:
    """Describe a gate that did not pass: its condition, its result and the figures."""
    return f"{result['gate']} ({result['result']}): {result['detail']}"


def summarize(results: list[GateResult]) -> str:
    """Summarize all results: "all 4 gates passed", "failed: ...", "unknown: ..."."""
    failed, unknown = failed_gates(results), unknown_gates(results)
    parts = [f"failed: {', '.join(gate['gate'] for gate in failed)}"] if failed else []
    parts += [f"unknown: {', '.join(gate['gate'] for gate in unknown)}"] if unknown else []
    if parts or not results:
        return "; ".join(parts) or "there are no gates"
    return "its gate passed" if len(results) == 1 else f"all {counted(len(results), 'gate')} passed"


def _apply(gate: Gate, evidence: Evidence) -> list[GateResult]:
    if isinstance(gate, MetricGate):
        return [_metric(gate, evidence)]
    if isinstance(gate, SliceFloor):
        return [_slices(gate, evidence)]
    if isinstance(gate, BeatsBaseline):
        return [_baseline(gate, evidence)]
    if isinstance(gate, NotWorseThanLinear):
        return [_linear(gate, evidence)]
    if isinstance(gate, EveryClass):
        return _classes(evidence.sample)
    return _champion(gate, evidence.metric, evidence.comparison)


def _result(gate: str, result: Outcome | bool, detail: str) -> GateResult:
    outcome = result if isinstance(result, str) else "passed" if result else "failed"
    return {"gate": gate, "result": outcome, "passed": outcome == "passed", "detail": detail}


def _bounds(gate: MetricGate | SliceFloor) -> str:
    limits = [("at most", gate.max), ("at least", gate.min)]
    return f"{gate.metric} " + " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


def _within(gate: MetricGate | SliceFloor, value: float | None) -> bool:
    """Return whether the value is within the gate's bounds. An undefined metric is not."""
    return value is not None and (gate.max is None or value <= gate.max) and (gate.min is None or value >= gate.min)


def _value(metrics: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    if name not in metrics:
        raise ModelError(f"there is no metric {name}", where="gates", hint=f"choose one of {', '.join(metrics)}")
    return metrics[name]["value"]


def _format(value: float | None) -> str:
    return "undefined" if value is None else number(value, 2 if abs(value) >= 10 else 4)


def _metric(gate: MetricGate, evidence: Evidence) -> GateResult:
    value = _value(evidence.metrics, gate.metric)
    if short := evidence.sample.shortage(gate.rows):
        return _result(_bounds(gate), "unknown", f"{_format(value)}, {short}")
    return _result(_bounds(gate), _within(gate, value), _format(value))


def _slices(gate: SliceFloor, evidence: Evidence) -> GateResult:
    large = [s for s in evidence.slices if s["column"] == gate.column and s["rows"] >= gate.rows]
    condition = f"{_bounds(gate)} on every {gate.column}"
    if not large:
        return _result(condition, "unknown", f"{TOO_FEW}: no slice has {gate.rows:,} test rows")
    failing = [s for s in large if not _within(gate, _value(s["metrics"], gate.metric))]
    values = ", ".join(f"{s['value']}: {_format(s['metrics'][gate.metric]['value'])}" for s in (failing or large)[:8])
    return _result(condition, not failing, f"fails on {values}" if failing else f"every slice: {values}")


def _baseline(gate: BeatsBaseline, evidence: Evidence) -> GateResult:
    condition = f"{evidence.metric} below the constant's"
    if short := evidence.sample.shortage(gate.rows, gate.of_a_class):
        return _result(condition, "unknown", short)
    difference = evidence.differences("constant")
    better = difference["high"] is not None and difference["high"] < 0
    return _result(condition, better, _difference(difference))


def _linear(gate: NotWorseThanLinear, evidence: Evidence) -> GateResult:
    condition = f"{evidence.metric} not above the linear baseline's"
    if short := evidence.sample.shortage(gate.rows, gate.of_a_class):
        return _result(condition, "unknown", short)
    difference = evidence.differences("linear")
    kept = difference["low"] is not None and difference["low"] <= gate.margin * evidence.constant
    return _result(condition, kept, _difference(difference))


def _classes(sample: Sample) -> list[GateResult]:
    if not sample.classes:
        return []
    condition = "every class has training rows, and at least two have test rows"
    untrained = [name for name, (trained, _) in sample.classes.items() if not trained]
    untested = [name for name, (_, tested) in sample.classes.items() if not tested]
    if untrained:
        return [_result(condition, "failed", f"no training row of class {', '.join(untrained[:8])}")]
    rest = [tested for _, tested in sample.classes.values() if tested]
    if len(rest) < 2:  # a class may be out of season, as snow is in summer
        return [_result(condition, "unknown", f"{TOO_FEW}: no test row of class {', '.join(untested[:8])}")]
    detail = f"{counted(len(rest), 'class')}, at least {counted(min(rest), 'test row')} of each"
    detail += f"; not evaluated, without test rows: class {', '.join(untested[:8])}" if untested else ""
    return [_result(condition, "passed", detail)]


def _champion(gate: BeatsChampion, metric: str, comparison: Comparison | None) -> list[GateResult]:
    compared = "cost" if gate.metric == "cost" else metric
    condition = f"{compared} below the champion's" + (f" {gate.margin:+g}" if gate.margin else "")
    if comparison is None:
        return [_result(condition, True, "there is no other champion")]
    if comparison.loss is None or comparison.calibration is None:
        return [_result(condition, "unknown", f"version {comparison.champion} cannot be compared: {comparison.reason}")]
    if gate.metric == "cost" and comparison.cost is None:
        return [_result(condition, "unknown", "the model has no costs: declare Decision(costs=...), and train again")]
    difference = comparison.cost if gate.metric == "cost" and comparison.cost else comparison.loss
    high, days = difference["high"], f" of {counted(comparison.days, 'day')}" if comparison.days else ""
    better = high is not None and high < gate.margin
    rows = f"{counted(comparison.rows, 'row')}{days} that neither was trained on"
    detail = f"version {comparison.champion}: {_difference(difference)} on {rows}"
    if comparison.tries > 1:
        tried = counted(comparison.tries, "version")
        detail += f"; the interval is {_percent(comparison.tries)}, since {tried} were tried on these rows"
    calibration = "calibration not worse than the champion's"
    results = [
        _result(condition, better, detail),
        _result(calibration, _not_worse(comparison.calibration), _difference(comparison.calibration)),
    ]
    return [*results, _every_slice(metric, comparison.slices)] if comparison.slices else results


def _percent(tries: int) -> str:
    return f"{100 * coverage_of(tries):.4g}%"


def _not_worse(difference: Estimate) -> bool:
    """Return whether the difference is not significantly above zero. An undefined difference is not."""
    return difference["low"] is not None and difference["low"] <= 0


def _every_slice(metric: str, slices: tuple[dict[str, Any], ...]) -> GateResult:
    worse = [part for part in slices if not _not_worse(part["difference"])]
    shown = worse or sorted(slices, key=lambda part: -part["difference"]["low"])[:1]
    values = ", ".join(f"{part['column']} {part['value']}: {_difference(part['difference'])}" for part in shown[:8])
    columns = ", ".join(dict.fromkeys(part["column"] for part in slices))
    detail = f"worse on {values}" if worse else f"none of {len(slices)} is worse; closest is {values}"
    return _result(f"{metric} on every {columns} not worse than the champion's", not worse, detail)


def _difference(difference: Mapping[str, float | None]) -> str:
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return "difference undefined"
    return f"difference {value:+.4g} ({low:+.4g} to {high:+.4g})"
