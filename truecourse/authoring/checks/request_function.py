"""Checks of the request-time function: called on two sample rows and on none, it must return the declared features."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from truecourse.authoring.checks.names import place
from truecourse.errors import Fault
from truecourse.problem import Problem, RequestFeatures
from truecourse.problem.schema import AnyColumn, Integer, Text, Time
from truecourse.wording import counted, nearest

SAMPLE_TIMES = ("2024-01-01T08:30:00", "2024-07-06T23:59:59")


def function_faults(problem: Problem) -> Iterator[Fault]:
    declared = problem.request_features
    if declared is None:
        return
    faults = [*_input_faults(problem, declared), *_source_faults(declared)]
    yield from faults
    if not faults:
        yield from _call_faults(problem, declared)


def _input_faults(problem: Problem, declared: RequestFeatures) -> Iterator[Fault]:
    where = place("request_features", "inputs")
    known = [*problem.request_fields, *(["decision_time"] if problem.has_time else [])]
    for name in declared.inputs:
        if name in known:
            continue
        if name in ("label", problem.label.column):
            yield Fault(where, f"{name} is the label: a leak", "remove it, and the features computed from it")
        elif name == "decision_time":
            yield Fault(where, "decisions of this problem have no time", "remove decision_time")
        else:
            yield Fault(where, f"{name} is not a request field", nearest(name, known))
    if not declared.features:
        yield Fault(place("request_features", "features"), "no feature is declared", "declare what it returns")


def _source_faults(declared: RequestFeatures) -> Iterator[Fault]:
    """Faults for a function without source text, which the problem's digest needs."""
    try:
        inspect.getsource(declared.function)
        assert declared.function.__name__
    except (OSError, TypeError, AttributeError, AssertionError):
        hint = "define it with def in problem.py, or in a file beside it"
        yield Fault(place("request_features", "function"), "its source cannot be read", hint)


def _call_faults(problem: Problem, declared: RequestFeatures) -> Iterator[Fault]:
    where = place("request_features", declared.function.__name__)
    for rows in (2, 0):
        columns = {name: _sample_values(problem.request_fields.get(name), rows) for name in declared.inputs}
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                computed = declared.function(columns)
        except KeyError as error:
            what = f"reads column {error}, which is not among its inputs"
            yield Fault(where, what, f"add {error} to inputs, or correct the name")
            return
        except Exception as error:
            if _takes_free_text(problem, declared) and rows:
                continue
            hint = "accept any number of rows, and NaN or None for missing values"
            yield Fault(where, f"fails on {rows} sample rows: {type(error).__name__}: {error}", hint)
            return
        faults = list(_result_faults(declared, computed, rows, where))
        yield from faults
        if faults:
            return


def _result_faults(declared: RequestFeatures, computed: Any, rows: int, where: str) -> Iterator[Fault]:
    if not hasattr(computed, "keys"):
        hint = "return a dict of arrays by feature name"
        yield Fault(where, f"returns {type(computed).__name__}, not a dict of arrays", hint)
        return
    for name in declared.features:
        if name not in computed:
            hint = f"return it, or do not declare it; {nearest(name, map(str, computed.keys()))}"
            yield Fault(where, f"does not return the declared feature {name!r}", hint)
    for name in computed:
        if name not in declared.features:
            yield Fault(where, f"returns {name!r}, which is not declared", "declare it in features, or drop it")
        elif np.shape(computed[name])[:1] != (rows,):
            what = f"{name} has the shape {np.shape(computed[name])} for {counted(rows, 'row')}"
            yield Fault(where, what, "return one value per row")
        elif rows:
            yield from _type_faults(name, declared.features[name], np.asarray(computed[name]), where)


def _type_faults(name: str, column: AnyColumn, values: np.ndarray[Any, Any], where: str) -> Iterator[Fault]:
    textual = values.dtype.kind in "OUS" and any(isinstance(value, str) for value in values.tolist())
    if isinstance(column, Text) != textual and not (values.dtype.kind == "O" and not textual):
        what = f"{name} is declared {type(column).__name__}, but its values are {values.dtype}"
        yield Fault(where, what, "return text as an object array, numbers as float64")
    elif isinstance(column, Integer) and values.dtype.kind == "f":
        broken = [value for value in values.tolist() if value == value and value % 1]
        if broken:
            yield Fault(where, f"{name} is declared Integer, but a value is {broken[0]}", "round it, or declare Float")


def _takes_free_text(problem: Problem, declared: RequestFeatures) -> bool:
    """Whether an input is free text; a sample value may then lack the form that the function expects."""
    columns = [problem.request_fields.get(name) for name in declared.inputs]
    return any(isinstance(column, Text) and not column.one_of for column in columns)


def _sample_values(column: AnyColumn | None, rows: int) -> np.ndarray[Any, Any]:
    if column is None or isinstance(column, Time):
        return np.array(SAMPLE_TIMES[:rows], dtype="datetime64[us]")
    if isinstance(column, Text):
        return np.array([(column.one_of or ("a", "b"))[-1 if row else 0] for row in range(rows)], dtype=object)
    if isinstance(column, Integer) and column.one_of:
        return np.array([column.one_of[0], column.one_of[-1]][:rows], dtype=np.float64)
    low, high = getattr(column, "ge", None), getattr(column, "le", None)
    first = low if low is not None else min(0.0, high or 0.0)
    return np.array([first, high if high is not None else first + 1][:rows], dtype=np.float64)
