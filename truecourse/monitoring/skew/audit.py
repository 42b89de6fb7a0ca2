"""Taking a sample of logged predictions apart and computing all of it again, part by part."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.data.arrow_types import arrow_type
from truecourse.features.view_sql import key_columns
from truecourse.monitoring.predictions.log_sample import LogSample, feature_kind
from truecourse.monitoring.skew.causes import Mismatch, ServedValues, find_mismatches
from truecourse.monitoring.skew.recompute import request_mismatches, score_mismatches
from truecourse.monitoring.skew.view_history import read_history
from truecourse.problem import Problem, View
from truecourse.storage.tables import Tables
from truecourse.wording import counted


@dataclass
class Audit:
    """`compared`: rows by view, and of `request` and `score`. `closed`: by reason, what could not be compared."""

    mismatches: list[Mismatch] = field(default_factory=list)
    compared: dict[str, int] = field(default_factory=dict)
    not_compared: dict[str, list[str]] = field(default_factory=dict)

    def exclude(self, reason: str, names: Iterable[str]) -> None:
        if told := list(names):
            self.not_compared.setdefault(reason, []).extend(told)


def audit_sample(problem: Problem, tables: Tables, logged: LogSample, now: datetime) -> Audit:
    """Everything of the sample that can be computed again; nothing recorded after `now` (naive UTC) is read."""
    if not len(logged):
        return Audit()
    audit = audit_inputs(problem, tables, logged, now)
    scores = score_mismatches(problem, logged)
    audit.mismatches += scores.mismatches
    audit.compared["score"] = scores.compared
    audit.exclude("the model's inputs are hidden in the log", ["score"] if scores.hidden else [])
    return audit


def audit_inputs(problem: Problem, tables: Tables, logged: LogSample, now: datetime) -> Audit:
    """The features of the sample, at least one prediction, computed again; nothing recorded after `now` is read."""
    audit, rows = Audit(), logged.request
    refused = len(logged) - len(rows)
    audit.exclude("the request breaks today's contract", [f"{counted(refused, 'prediction')}"] if refused else [])
    if len(rows):
        wrong, hidden = request_mismatches(problem, logged)
        audit.mismatches += wrong
        audit.compared["request"] = len(rows)
        audit.exclude("hidden in the log", hidden)
        _views(problem, tables, logged, now, audit)
    return audit


def _views(problem: Problem, tables: Tables, logged: LogSample, now: datetime, audit: Audit) -> None:
    read = [view for view in problem.views if _open(problem, logged, view, audit)]
    if not read:
        return
    places = np.array(logged.request.accepted, dtype=np.int64)
    decided, asked = logged.decided[places], logged.at[places]
    events = {view.name: logged.events(next(iter(view.features)))[places] for view in read}
    loaded = _loaded(asked, list(events.values()))
    first, last = decided.min().item(), max(decided.max(), asked.max()).item()
    for view in read:
        history = read_history(problem, tables, view, first, last, now)
        if history is None:
            audit.exclude("never computed", [view.name])
            continue
        told = {name: column for name, column in view.features.items() if logged.has_feature(name)}
        values = {name: logged.feature(name, feature_kind(column))[places] for name, column in told.items()}
        keys = _keys(problem, view, logged)
        audit.mismatches += find_mismatches(
            history, ServedValues(keys, values, events[view.name], decided, asked, loaded, places)
        )
        audit.compared[view.name] = len(places)


def _open(problem: Problem, logged: LogSample, view: View, audit: Audit) -> bool:
    """Whether the log tells the view's keys."""
    if any(key in logged.hidden for key in key_columns(problem, view)):
        audit.exclude("its key is hidden in the log", [view.name])
        return False
    audit.exclude("hidden in the log", (name for name in view.features if name in logged.hidden))
    return True


def _keys(problem: Problem, view: View, logged: LogSample) -> pl.DataFrame:
    """The keys that the requests looked up, under the types of the feature table."""
    rows, columns = logged.request, {}
    for name, column in key_columns(problem, view).items():
        columns[name] = pa.array(rows.values[name], arrow_type(column), from_pandas=True)
    return pl.DataFrame(pa.table(columns))


def _loaded(asked: Array, events: Sequence[Array]) -> Array:
    """For each request the newest event that any answer up to it had: the online store was loaded to there at least."""
    order = np.argsort(asked, kind="stable")
    newest = np.fmax.accumulate(np.fmax.reduce(np.stack(events))[order])
    return np.asarray(newest[np.searchsorted(asked[order], asked, side="right") - 1])
