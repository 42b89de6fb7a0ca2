"""Gates: may a model become champion?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from truecourse.errors import ModelError
from truecourse.evaluation.paired_comparison import Comparison
from truecourse.evaluation.tries import coverage_of
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
"""`unknown`: there is too little to judge by. A version with such a gate is not promoted by itself; a person may."""
GateResult = dict[str, Any]
"""{"gate": what was asked, "result": Result, "passed": whether it is "passed", "detail": the figures}."""
TOO_FEW = "too few rows to judge"


@dataclass(frozen=True)
class Sample:
    """How many rows a version is judged on. `classes`: {class: (rows it was fitted to, test rows)}, none of a
    regression. `blocks`: whole days, or rows where there is no time."""

    rows: int
    blocks: int
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def shortage(self, rows: int, of_a_class: int = 0) -> str:
        """What is too little; empty where nothing is."""
        if self.rows < rows:
            return f"{TOO_FEW}: {_counted(self.rows, 'test row')}, {rows} are needed"
        if self.blocks < 2:
            return f"{TOO_FEW}: all test rows are of one day"
        test = sorted(((count, name) for name, (_, count) in self.classes.items()), reverse=True)
        if len(test) == 2 and test[1][0] < of_a_class:
            few, name = test[1]
            return f"{TOO_FEW}: {_counted(few, 'test row')} of class {name}, {of_a_class} are needed"
        others = sum(count for count, _ in test[1:])
        if len(test) > 2 and others < of_a_class:
            return (
                f"{TOO_FEW}: {_counted(others, 'test row')} of other classes than {test[0][1]}, {of_a_class} are needed"
            )
        return ""


@dataclass(frozen=True)
class Evidence:
    """What gates judge: metrics by name; paired differences of the loss, model minus "constant" or "linear", on the
    same rows; the constant's loss; slices; the sample; and the comparison with the champion, None where no other
    version is in office. `differences` is asked only for what a gate needs: a linear model takes seconds to fit."""

    metric: str
    metrics: Mapping[str, Mapping[str, float | None]]
    differences: Callable[[str], Estimate]
    constant: float
    slices: list[dict[str, Any]]
    sample: Sample
    comparison: Comparison | None = None


def apply_gates(gates: tuple[Gate, ...], evidence: Evidence) -> list[GateResult]:
    """The verdicts, in the gates' order. Raises ModelError for a gate on a metric that this kind of problem has not."""
    return [verdict for gate in gates for verdict in _judge(gate, evidence)]


def failed_gates(verdicts: list[GateResult]) -> list[GateResult]:
    return [verdict for verdict in verdicts if verdict["result"] == "failed"]


def unknown_gates(verdicts: list[GateResult]) -> list[GateResult]:
    """Those that could be neither passed nor failed."""
    return [verdict for verdict in verdicts if verdict["result"] == "unknown"]


def describe_gate(verdict: GateResult) -> str:
    """What a gate that did not pass asked for, and what it met."""
    return f"{verdict['gate']} ({verdict['result']}): {verdict['detail']}"


def summarize(verdicts: list[GateResult]) -> str:
    """All verdicts in words: "all 4 gates passed", "failed: ...", "not judged: ..."."""
    shut, unknown = failed_gates(verdicts), unknown_gates(verdicts)
    parts = [f"failed: {', '.join(gate['gate'] for gate in shut)}"] if shut else []
    parts += [f"not judged: {', '.join(gate['gate'] for gate in unknown)}"] if unknown else []
    if parts or not verdicts:
        return "; ".join(parts) or "there are no gates"
    return "its gate passed" if len(verdicts) == 1 else f"all {counted(len(verdicts), 'gate')} passed"


def _judge(gate: Gate, evidence: Evidence) -> list[GateResult]:
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


def _verdict(gate: str, result: Outcome | bool, detail: str) -> GateResult:
    said = result if isinstance(result, str) else "passed" if result else "failed"
    return {"gate": gate, "result": said, "passed": said == "passed", "detail": detail}


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _bounds(gate: MetricGate | SliceFloor) -> str:
    limits = [("at most", gate.max), ("at least", gate.min)]
    return f"{gate.metric} " + " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


def _within(gate: MetricGate | SliceFloor, value: float | None) -> bool:
    """An undefined metric keeps no bound."""
    return value is not None and (gate.max is None or value <= gate.max) and (gate.min is None or value >= gate.min)


def _value(metrics: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    if name not in metrics:
        raise ModelError(f"there is no metric {name}", where="gates", hint=f"choose one of {', '.join(metrics)}")
    return metrics[name]["value"]


def _told(value: float | None) -> str:
    return "undefined" if value is None else number(value, 2 if abs(value) >= 10 else 4)


def _metric(gate: MetricGate, evidence: Evidence) -> GateResult:
    value = _value(evidence.metrics, gate.metric)
    if short := evidence.sample.shortage(gate.rows):
        return _verdict(_bounds(gate), "unknown", f"{_told(value)}, {short}")
    return _verdict(_bounds(gate), _within(gate, value), _told(value))


def _slices(gate: SliceFloor, evidence: Evidence) -> GateResult:
    held = [s for s in evidence.slices if s["column"] == gate.column and s["rows"] >= gate.rows]
    asked = f"{_bounds(gate)} on every {gate.column}"
    if not held:
        return _verdict(asked, "unknown", f"{TOO_FEW}: no slice has {gate.rows:,} test rows")
    failing = [s for s in held if not _within(gate, _value(s["metrics"], gate.metric))]
    told = ", ".join(f"{s['value']}: {_told(s['metrics'][gate.metric]['value'])}" for s in (failing or held)[:8])
    return _verdict(asked, not failing, f"fails on {told}" if failing else f"every slice: {told}")


def _baseline(gate: BeatsBaseline, evidence: Evidence) -> GateResult:
    asked = f"{evidence.metric} below the constant's"
    if short := evidence.sample.shortage(gate.rows, gate.of_a_class):
        return _verdict(asked, "unknown", short)
    difference = evidence.differences("constant")
    better = difference["high"] is not None and difference["high"] < 0
    return _verdict(asked, better, _difference(difference))


def _linear(gate: NotWorseThanLinear, evidence: Evidence) -> GateResult:
    asked = f"{evidence.metric} not above the linear baseline's"
    if short := evidence.sample.shortage(gate.rows, gate.of_a_class):
        return _verdict(asked, "unknown", short)
    difference = evidence.differences("linear")
    kept = difference["low"] is not None and difference["low"] <= gate.margin * evidence.constant
    return _verdict(asked, kept, _difference(difference))


def _classes(sample: Sample) -> list[GateResult]:
    if not sample.classes:
        return []
    asked = "every class is learned, and two or more are tested"
    unlearned = [name for name, (learned, _) in sample.classes.items() if not learned]
    untested = [name for name, (_, tested) in sample.classes.items() if not tested]
    if unlearned:
        return [_verdict(asked, "failed", f"no training row of class {', '.join(unlearned[:8])}")]
    rest = [tested for _, tested in sample.classes.values() if tested]
    if len(rest) < 2:  # a season without snow says nothing of snow, and enough of rain and sun
        return [_verdict(asked, "unknown", f"{TOO_FEW}: no test row of class {', '.join(untested[:8])}")]
    told = f"{counted(len(rest), 'class')}, {_counted(min(rest), 'test row')} or more of each"
    told += f"; not judged, for want of a test row: class {', '.join(untested[:8])}" if untested else ""
    return [_verdict(asked, "passed", told)]


def _champion(gate: BeatsChampion, metric: str, found: Comparison | None) -> list[GateResult]:
    asked = f"{metric} below the champion's" + (f" {gate.margin:+g}" if gate.margin else "")
    if found is None:
        return [_verdict(asked, True, "no other version is in office")]
    if found.loss is None or found.calibration is None:
        return [_verdict(asked, "unknown", f"version {found.champion} cannot be compared: {found.reason}")]
    high, days = found.loss["high"], f" of {counted(found.days, 'day')}" if found.days else ""
    better = high is not None and high < gate.margin
    rows = f"{counted(found.rows, 'row')}{days} that neither learned from"
    told = f"version {found.champion}: {_difference(found.loss)} on {rows}"
    if found.tries > 1:
        tried = counted(found.tries, "version")
        told += f"; {tried} were tried on these rows, so that the interval is {_percent(found.tries)}"
    calibration = "calibration not worse than the champion's"
    verdicts = [
        _verdict(asked, better, told),
        _verdict(calibration, _kept(found.calibration), _difference(found.calibration)),
    ]
    return [*verdicts, _every_slice(metric, found.slices)] if found.slices else verdicts


def _percent(tries: int) -> str:
    return f"{100 * coverage_of(tries):.4g}%"


def _kept(difference: Estimate) -> bool:
    """Not significantly above zero. An undefined difference keeps nothing."""
    return difference["low"] is not None and difference["low"] <= 0


def _every_slice(metric: str, slices: tuple[dict[str, Any], ...]) -> GateResult:
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
