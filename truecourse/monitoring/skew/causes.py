"""Find differences between a view's served values and the offline tables, and classify their causes row by row."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

import numpy as np
import polars as pl

from truecourse.arrays import Array
from truecourse.monitoring.skew.aggregation_history import AggregationHistory
from truecourse.monitoring.skew.view_history import AsOfValues, ViewHistory

Cause = Literal["code", "missing", "stale value", "late data", "asked afterwards"]
CODE: Cause = "code"
MISSING: Cause = "missing"
STALE: Cause = "stale value"
LATE: Cause = "late data"
AFTERWARDS: Cause = "asked afterwards"
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Tolerances for equal numbers: RELATIVE to the value (a few float32 steps, the precision of model inputs), and
ABSOLUTE per unit of the column's largest value (rounding left by sums that cancel)."""
_NOT_A_TIME = np.datetime64("NaT", "us")


@dataclass(frozen=True)
class Mismatch:
    """Differences of one subject with one cause.

    `places`: row indices in the sample; `features`: number of rows by feature. `overdue`: for stale values, the seconds
    since a newer value was known, one per place; otherwise empty."""

    subject: str
    cause: Cause
    compared: int
    places: Array
    features: Mapping[str, int]
    overdue: Array = field(default_factory=lambda: np.empty(0))

    @property
    def share(self) -> float:
        return len(self.places) / self.compared

    def joined(self, other: "Mismatch") -> "Mismatch":
        """Return the differences of both, of the same subject and cause in different rows."""
        counts = Counter(self.features)
        counts.update(other.features)
        return replace(
            self,
            compared=self.compared + other.compared,
            places=np.concatenate([self.places, other.places]),
            features=dict(counts),
            overdue=np.concatenate([self.overdue, other.overdue]),
        )


@dataclass(frozen=True)
class ServedValues:
    """A view's served values for n predictions; arrays are (n,).

    `values` by feature, their `event` times, decision times, request times, and `loaded`: the time up to which the
    online store was at least loaded at the request. `places`: row indices in the sample."""

    keys: pl.DataFrame
    values: Mapping[str, Array]
    event: Array
    decided: Array
    requested: Array
    loaded: Array
    places: Array


def equal_values(a: Array, b: Array) -> Array:
    """Compare n values in float32, as a model reads them; two missing values are equal. Returns (n,) bool."""
    if a.dtype == object or b.dtype == object:
        equal: Array = np.asarray(a == b, dtype=bool)
        return equal
    with np.errstate(over="ignore", invalid="ignore"):
        left, right = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
        size = np.maximum(np.abs(left), np.abs(right))
        near = np.abs(left - right) <= RELATIVE * size + ABSOLUTE * np.max(size, initial=0.0, where=np.isfinite(size))
    return np.asarray(near | (left == right) | (np.isnan(left) & np.isnan(right)))


def is_missing(values: Array) -> Array:
    absent = [value is None for value in values] if values.dtype == object else np.isnan(values)
    return np.asarray(absent, dtype=bool)


def find_mismatches(history: ViewHistory | AggregationHistory, served: ServedValues) -> list[Mismatch]:
    """Find where the served values differ from those known at the decision times, with causes."""
    if isinstance(history, AggregationHistory):
        overdue = np.nan_to_num((served.decided - served.event) / np.timedelta64(1, "s"))
        return _build_mismatches(
            history.view.name, served, _aggregation_causes(history, served), lambda rows: overdue[rows]
        )
    then = history.as_of(served.keys, served.decided)
    now = history.as_of(served.keys, served.decided, include_late=True) if history.has_late else then
    differs = {name: ~equal_values(values, then.values[name]) for name, values in served.values.items()}
    rows = np.any(list(differs.values()), axis=0).nonzero()[0] if differs else np.empty(0, dtype=np.int64)
    causes_of = {name: np.full(len(served.places), "", dtype=object) for name in served.values}
    for name, values in served.values.items():
        causes_of[name][~differs[name] & ~equal_values(then.values[name], now.values[name])] = LATE
        causes_of[name][differs[name] & equal_values(values, now.values[name])] = LATE
    if len(rows):
        event_causes = _causes_by_event(history, served, then, rows)
        for name, causes in _causes_by_value(history, served, then, rows, event_causes).items():
            open_ = differs[name][rows] & (causes_of[name][rows] == "")
            causes_of[name][rows[open_]] = causes[open_]
    return _build_mismatches(
        history.view.name, served, causes_of, lambda rows: _overdue_seconds(history, served, then, rows)
    )


def _aggregation_causes(history: AggregationHistory, served: ServedValues) -> dict[str, Array]:
    """The cause of each row by feature; "" where the served value is that known at the decision.

    The event of an aggregation is the time of the load from which it was evaluated; without event the key had no record
    in the online store, or the decision was before the record."""
    then = history.values_at(served.keys, served.decided)
    now = history.values_at(served.keys, served.decided, include_late=True) if history.has_late else then
    differs = {name: ~equal_values(values, then[name]) for name, values in served.values.items()}
    rows = np.flatnonzero(np.any(list(differs.values()), axis=0)) if differs else np.empty(0, dtype=np.int64)
    if not len(rows):
        stale = dict.fromkeys(served.values, np.empty(0, dtype=bool))
    else:
        loads = np.fmin(np.where(np.isnat(served.event), served.loaded, served.event), served.decided)[rows]
        by_load = list(history.values_as_loaded(served.keys[rows], served.decided[rows], loads))
        stale = {
            name: np.any([equal_values(values[rows], loaded[name]) for loaded in by_load], axis=0)
            for name, values in served.values.items()
        }
    none_served = np.all([is_missing(values[rows]) for values in served.values.values()], axis=0)
    afterwards = none_served & np.isnat(served.event[rows]) & (served.requested[rows] > served.decided[rows])
    causes_of = {}
    for name, values in served.values.items():
        causes_of[name] = np.full(len(served.places), "", dtype=object)
        causes_of[name][~differs[name] & ~equal_values(then[name], now[name])] = LATE
        here, known = values[rows], then[name][rows]
        cause = np.where(is_missing(here) != is_missing(known), MISSING, CODE).astype(object)
        late = equal_values(here, now[name][rows])
        for is_cause, why in ((stale[name] & ~late, STALE), (afterwards, AFTERWARDS), (late, LATE)):
            cause[is_cause] = why
        chosen = differs[name][rows]
        causes_of[name][rows[chosen]] = cause[chosen]
    return causes_of


def _causes_by_event(history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array) -> Array:
    """Return each row's cause where the event times alone show it; otherwise ""."""
    event, known, decided = served.event[rows], then.event[rows], served.decided[rows]
    is_absent = np.isnat(event)
    causes = np.full(len(rows), "", dtype=object)
    causes[~is_absent & (event < known)] = STALE
    if history.view.ttl:
        causes[~is_absent & np.isnat(known) & (event < decided - np.timedelta64(history.view.ttl, "us"))] = STALE
    places = rows[is_absent]
    if len(places):
        causes[is_absent] = _absent_causes(history, served, places)
    return causes


def _absent_causes(history: ViewHistory, served: ServedValues, places: Array) -> Array:
    """Classify rows that were served no value: requested after newer values had replaced those of the decision time;
    stale, if what the store was loaded with had expired; otherwise missing."""
    keys, decided, loaded = served.keys[places], served.decided[places], served.loaded[places]
    causes = np.full(len(places), MISSING, dtype=object)
    held = history.as_of(keys, loaded).event
    ttl = np.timedelta64(history.view.ttl or timedelta(days=36500), "us")
    causes[~np.isnat(loaded) & (np.isnat(held) | (held < decided - ttl))] = STALE
    causes[history.replaced_at(keys, decided) <= served.requested[places]] = AFTERWARDS
    return causes


def _causes_by_value(
    history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array, event_causes: Array
) -> dict[str, Array]:
    """Classify these rows by feature. Where event times do not show the cause, look up every version of the served row:
    its values may precede or follow a correction. A value of no version means that the code differs."""
    causes = {name: event_causes.copy() for name in served.values}
    _mark_code(history, served, rows, causes)
    unclear = (event_causes == "").nonzero()[0]
    if not len(unclear):
        return causes
    unclear_rows = rows[unclear]
    at, versions = history.versions_at(served.keys[unclear_rows], served.event[unclear_rows])
    has_version = np.isin(np.arange(len(unclear_rows)), at)
    late = versions.created > served.decided[unclear_rows][at]
    if history.view.timeless:
        places, earlier = history.earlier_at(served.keys[unclear_rows])
    for name, values in served.values.items():
        cause = np.full(len(unclear_rows), CODE, dtype=object)
        equal = equal_values(values[unclear_rows][at], versions.values[name])
        cause[at[equal & late]] = LATE
        cause[at[equal & ~late]] = STALE
        if history.view.timeless:
            cause[places[equal_values(values[unclear_rows][places], earlier.values[name])]] = LATE
        cause[~has_version & (cause == CODE)] = MISSING
        cause[is_missing(values[unclear_rows]) & (cause == CODE)] = MISSING
        causes[name][unclear] = cause
    return causes


def _mark_code(history: ViewHistory, served: ServedValues, rows: Array, causes: dict[str, Array]) -> None:
    """Set the cause to code for a value without an event time, and for one that never existed at its event time."""
    event = served.event[rows]
    at, versions = history.versions_at(served.keys[rows], event)
    has_version = np.isin(np.arange(len(rows)), at)
    for name, values in served.values.items():
        is_held = np.zeros(len(rows), dtype=bool)
        is_held[at[equal_values(values[rows][at], versions.values[name])]] = True
        causes[name][np.isnat(event) & ~is_missing(values[rows])] = CODE
        causes[name][(causes[name] == STALE) & has_version & ~is_held] = CODE


def _build_mismatches(
    view: str, served: ServedValues, causes_of: Mapping[str, Array], overdue_seconds: Callable[[Array], Array]
) -> list[Mismatch]:
    """Build one mismatch per cause for the view; for code, one per feature. `overdue_seconds`: for the indices of stale
    rows, how long newer values had been known."""
    mismatches: list[Mismatch] = []
    compared = len(served.places)
    for cause in (MISSING, STALE, LATE, AFTERWARDS):
        counts = {name: int(n) for name, causes in causes_of.items() if (n := np.count_nonzero(causes == cause))}
        if counts:
            rows = np.any([causes == cause for causes in causes_of.values()], axis=0).nonzero()[0]
            overdue = overdue_seconds(rows) if cause == STALE else np.empty(0)
            mismatches.append(Mismatch(view, cause, compared, served.places[rows], counts, overdue))
    for name, causes in causes_of.items():
        rows = (causes == CODE).nonzero()[0]
        if len(rows):
            mismatches.append(Mismatch(name, CODE, compared, served.places[rows], {name: len(rows)}))
    return mismatches


def _overdue_seconds(history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array) -> Array:
    """Return for each row the seconds between the time its served value was replaced or expired and the decision."""
    event, decided = served.event[rows], served.decided[rows]
    replaced = history.replaced_at(served.keys[rows], np.where(np.isnat(event), served.loaded[rows], event))
    expired = event + np.timedelta64(history.view.ttl, "us") if history.view.ttl else np.full(len(rows), _NOT_A_TIME)
    since = np.fmin(np.fmin(replaced, then.since[rows]), np.where(np.isnat(then.event[rows]), expired, _NOT_A_TIME))
    seconds = (decided - since) / np.timedelta64(1, "s")
    return np.asarray(np.maximum(np.nan_to_num(seconds), 0.0))
