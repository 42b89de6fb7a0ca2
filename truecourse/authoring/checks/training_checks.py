"""Checks of split, model, gates and monitoring: ordered dates, valid XGBoost parameters, existing metrics."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from truecourse.authoring.checks.names import place
from truecourse.errors import Fault
from truecourse.problem import (
    BeatsChampion,
    Float,
    Integer,
    Linear,
    MetricGate,
    Monitoring,
    Problem,
    RandomSplit,
    Range,
    SliceFloor,
    Text,
    TimeSplit,
    XGBoost,
)
from truecourse.problem.definition import Kind
from truecourse.wording import nearest

METRICS: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "brier", "average_precision", "calibration_error"),
    "multiclass": ("log_loss", "accuracy", "macro_f1", "auc", "calibration_error"),
    "regression": ("rmse", "mae", "r2", "bias"),
}
RATES = ("precision", "recall", "positive_share")
"""Metrics of the decisions of two classes, where a Decision is declared."""
BOUNDS = ("coverage", "width")
"""Metrics of the intervals of a regression, where an Interval is declared."""
NOT_SEARCHED = frozenset({"search", "trials", "refit", "folds", "seed", "monotone_constraints", "device"})


def split_faults(problem: Problem) -> Iterator[Fault]:
    split = problem.split
    if isinstance(split, RandomSplit):
        if split.validate + split.test >= 1:
            hint = "let validate and test sum to less than 1"
            yield Fault(place("split"), f"{split.validate:g} and {split.test:g} leave nothing to train on", hint)
        return
    if not problem.has_time:
        hint = "split=RandomSplit(), or name the table's time column"
        yield Fault(place("split"), "a TimeSplit needs decisions with a time, but these have none", hint)
    if split.validate_until <= split.train_until:
        what = f"{split.validate_until} is not after train_until, {split.train_until}"
        yield Fault(place("split", "validate_until"), what, "give a later date")
    if split.test_until is not None and split.test_until <= split.validate_until:
        what = f"{split.test_until} is not after validate_until, {split.validate_until}"
        yield Fault(place("split", "test_until"), what, "give a later date, or leave it out")
    if split.train_from is not None and split.train_from >= split.train_until:
        what = f"{split.train_from} is not before train_until, {split.train_until}"
        yield Fault(place("split", "train_from"), what, "give an earlier date, or leave it out")


def model_faults(problem: Problem) -> Iterator[Fault]:
    where = place("model", "folds")
    chosen = "the penalty" if isinstance(problem.model, Linear) else "rounds"
    if problem.model.folds == 1:
        hint = f"give 5, or 0 to choose {chosen} on the validation rows"
        yield Fault(where, "one fold leaves no rows to fit on", hint)
    if problem.model.folds and not problem.model.refit:
        yield Fault(where, "cross-validation uses all rows, which needs refit=True", "leave out refit or folds")
    if problem.model.folds and isinstance(problem.split, TimeSplit):
        what = f"random folds would choose {chosen} on rows that are older than the rows fitted"
        yield Fault(where, what, f"leave folds out: a TimeSplit's validation rows choose {chosen}")
    if isinstance(problem.model, XGBoost):
        yield from search_faults(problem.model)


def monotone_faults(problem: Problem) -> Iterator[Fault]:
    where = place("model", "monotone_constraints")
    constraints = problem.model.monotone_constraints if isinstance(problem.model, XGBoost) else None
    if constraints and problem.kind == "multiclass":
        yield Fault(where, "several classes have no order", "leave monotone_constraints out")
    numbers = [name for name, column in problem.features.items() if not isinstance(column, Text)]
    for name in constraints or ():
        if name not in numbers:
            yield Fault(where, f"no feature {name!r} that is a number", nearest(name, numbers))


def weight_faults(problem: Problem) -> Iterator[Fault]:
    weights = problem.weights
    if weights is None:
        return
    if weights.column is not None:
        yield from _weight_column_faults(problem, weights.column)
    where = place("weights", "classes")
    if weights.classes is not None and problem.kind == "regression":
        yield Fault(where, "a regression has no classes", "leave classes out, or name a column of weights")
    elif isinstance(weights.classes, Mapping) and problem.label.classes:
        for name in weights.classes:
            if name not in problem.label.classes:
                yield Fault(where, f"no class {name!r}", nearest(name, problem.label.classes))


def _weight_column_faults(problem: Problem, name: str) -> Iterator[Fault]:
    where, known = place("weights", "column"), {**problem.features, **problem.request_fields}
    numbers = [name for name, column in known.items() if isinstance(column, Integer | Float)]
    if name not in numbers:
        yield Fault(where, f"no request field or feature {name!r} that is a number", nearest(name, numbers))
    elif known[name].nulls:
        yield Fault(where, f"{name} may be missing, but every row needs a weight", "declare the column without nulls")


def search_faults(model: XGBoost) -> Iterator[Fault]:
    known = [field.name for field in dataclasses.fields(XGBoost) if field.name not in NOT_SEARCHED]
    for name, space in model.search.items():
        where = place("model", "search", name)
        if name not in known:
            yield Fault(where, "is not a parameter that can be searched", nearest(name, known))
        elif isinstance(space, Range):
            yield from _range_faults(model, name, space, where)
        elif not space.values:
            yield Fault(where, "the choice has no values", "list values")
        else:
            yield from _value_faults(model, name, space.values, where)


def _range_faults(model: XGBoost, name: str, space: Range, where: str) -> Iterator[Fault]:
    if space.low >= space.high:
        yield Fault(where, f"no range lies between {space.low} and {space.high}", "give Range(low, high)")
    if space.log and space.low <= 0:
        yield Fault(where, f"a logarithmic range cannot start at {space.low}", "start above 0, or leave out log")
    yield from _value_faults(model, name, (space.low, space.high), where)


def _value_faults(model: XGBoost, name: str, values: Sequence[Any], where: str) -> Iterator[Fault]:
    for value in values:
        try:
            dataclasses.replace(model, **{name: value})
        except ValidationError as error:
            yield Fault(where, f"{value!r} is out of range: {error.errors()[0]['msg']}", f"correct {name}'s range")


def decision_faults(problem: Problem) -> Iterator[Fault]:
    if problem.calibration is not None and problem.kind == "regression":
        yield Fault(place("calibration"), "a regression has no scores to calibrate", "leave calibration out")
    decision, where = problem.decision, place("decision")
    if decision is None:
        return
    if problem.kind == "regression":
        yield Fault(where, "a regression predicts values, not classes", "leave decision out")
    elif problem.kind == "multiclass" and decision.costs is None:
        yield Fault(where, f"{decision.target} needs a label of two classes", "give costs=")
    if decision.costs is None or not problem.label.classes:
        return
    for name in dict.fromkeys([*decision.costs, *(name for row in decision.costs.values() for name in row)]):
        if name not in problem.label.classes:
            yield Fault(place("decision", "costs"), f"no class {name!r}", nearest(name, problem.label.classes))


def interval_faults(problem: Problem) -> Iterator[Fault]:
    if problem.interval is not None and problem.kind != "regression":
        yield Fault(
            place("interval"), "only a regression has intervals; classes have probabilities", "leave interval out"
        )


def decision_metrics(problem: Problem) -> tuple[str, ...]:
    """The metrics of the decisions and intervals that a gate may name."""
    if problem.interval is not None:
        return BOUNDS
    if problem.decision is None:
        return ()
    costs = ("cost",) if problem.decision.costs is not None else ()
    return (*costs, *(RATES if problem.kind == "binary" else ()))


def gate_faults(problem: Problem) -> Iterator[Fault]:
    for number, gate in enumerate(problem.gates):
        path, metrics = ("gates", f"{number}"), METRICS[problem.kind]
        if isinstance(gate, BeatsChampion) and gate.metric == "cost" and "cost" not in decision_metrics(problem):
            hint = "declare Problem(decision=Decision(costs=...))"
            yield Fault(place(*path, "metric"), "no costs are declared to compare", hint)
        if not isinstance(gate, MetricGate | SliceFloor):
            continue
        if isinstance(gate, MetricGate):
            metrics = (*metrics, *decision_metrics(problem))
        if gate.metric not in metrics:
            what = f"a {problem.kind} problem has no metric {gate.metric!r}"
            yield Fault(place(*path, "metric"), what, nearest(gate.metric, metrics))
        if gate.min is None and gate.max is None:
            yield Fault(place(*path), "the gate has no bound, so every model passes", "give max= or min=")
        elif gate.min is not None and gate.max is not None and gate.min > gate.max:
            yield Fault(place(*path), f"no value is at least {gate.min} and at most {gate.max}", "swap min and max")
        if isinstance(gate, SliceFloor):
            yield from _slice_faults(problem, gate.column, place(*path, "column"))


def promotion_faults(problem: Problem) -> Iterator[Fault]:
    if problem.promotion.patience < timedelta(seconds=1):
        yield Fault(place("promotion", "patience"), "is shorter than a second", "give a duration, such as days(1)")


def monitoring_faults(problem: Problem) -> Iterator[Fault]:
    if problem.monitoring.window <= timedelta(0):
        yield Fault(place("monitoring", "window"), "is not positive", "give a duration, such as days(7)")
    yield from _policy_faults(problem.monitoring)
    for name in problem.monitoring.slices:
        yield from _slice_faults(problem, name, place("monitoring", "slices"))


def card_faults(problem: Problem) -> Iterator[Fault]:
    known = {**problem.request_fields, **problem.features}
    for number, name in enumerate(problem.card.groups):
        if name not in known:
            where = place("card", "groups", f"{number}")
            yield Fault(where, f"no request field or feature {name!r} to compare groups of", nearest(name, known))


def _policy_faults(monitoring: Monitoring) -> Iterator[Fault]:
    policy = monitoring.retraining
    for name in ("validate", "test", "history"):
        span = getattr(policy, name)
        if span is not None and span < timedelta(days=1):
            where = place("monitoring", "retraining", name)
            yield Fault(where, "is shorter than a day", "give whole days, such as days(14)")
    if policy.cooldown < timedelta(0):
        yield Fault(place("monitoring", "retraining", "cooldown"), "is negative", "give a duration, such as days(7)")
    if monitoring.alerts.remind <= timedelta(0):
        yield Fault(place("monitoring", "alerts", "remind"), "is not positive", "give a duration, such as days(7)")
    for cause in sorted({*policy.causes} & {*policy.blockers}):
        where = place("monitoring", "retraining", "blockers")
        yield Fault(where, f"{cause!r} both triggers and blocks retraining", "remove it from causes or blockers")


def _slice_faults(problem: Problem, name: str, where: str) -> Iterator[Fault]:
    if name not in problem.request_fields:
        yield Fault(where, f"no request field {name!r} to slice by", nearest(name, problem.request_fields))
