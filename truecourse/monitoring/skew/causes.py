"""Why served values are not what the offline tables say: each difference of a view's, row by row, with its cause."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import numpy as np
import polars as pl

from truecourse.arrays import Array
from truecourse.monitoring.skew.view_history import AsOfValues, ViewHistory

Cause = Literal["code", "missing", "stale value", "late data", "asked afterwards"]
CODE: Cause = "code"
MISSING: Cause = "missing"
STALE: Cause = "stale value"
LATE: Cause = "late data"
AFTERWARDS: Cause = "asked afterwards"
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Numbers are equal within this share of themselves, or of the column's largest: a few steps of the float32 that a
model sees, and what is left of a sum that cancels."""
_NOT_A_TIME = np.datetime64("NaT")


@dataclass(frozen=True)
class Mismatch:
    """One subject's differences of one cause. `places`: in the sample; `features`: rows by feature. `overdue`: of
    stale values, seconds for which a newer one had been known, as many as places; else empty."""

    subject: str
    cause: Cause
    compared: int
    places: Array
    features: Mapping[str, int]
    overdue: Array = field(default_factory=lambda: np.empty(0))

    @property
    def share(self) -> float:
        return len(self.places) / self.compared


@dataclass(frozen=True)
class ServedValues:
    """What the endpoint had of a view for n predictions: values by feature, their event times, the decisions, the
    requests, and at each request the newest moment that the online store was certainly loaded to, all (n,)."""

    keys: pl.DataFrame
    values: Mapping[str, Array]
    event: Array
    decided: Array
    requested: Array
    loaded: Array
    places: Array


def equal_values(a: Array, b: Array) -> Array:
    """Which of n values are equal as a model sees them, missing ones included; (n,) bool."""
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


def find_mismatches(history: ViewHistory, served: ServedValues) -> list[Mismatch]:
    """All differences of a view between what was served and what the tables say was known at the decisions."""
    then = history.as_of(served.keys, served.decided)
    now = history.as_of(served.keys, served.decided, include_late=True) if history.has_late else then
    wrong = {name: ~equal_values(values, then.values[name]) for name, values in served.values.items()}
    rows = np.any(list(wrong.values()), axis=0).nonzero()[0] if wrong else np.empty(0, dtype=np.int64)
    found = {name: np.full(len(served.places), "", dtype=object) for name in served.values}
    for name, values in served.values.items():
        found[name][~wrong[name] & ~equal_values(then.values[name], now.values[name])] = LATE
        found[name][wrong[name] & equal_values(values, now.values[name])] = LATE
    if len(rows):
        told = _rows(history, served, then, rows)
        for name, causes in _values(history, served, then, rows, told).items():
            open_ = wrong[name][rows] & (found[name][rows] == "")
            found[name][rows[open_]] = causes[open_]
    return _gathered(history, served, then, found)


def _rows(history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array) -> Array:
    """The cause of each of these rows, where it shows in the event times alone; else "" ."""
    event, known, decided = served.event[rows], then.event[rows], served.decided[rows]
    gone = np.isnat(event)
    causes = np.full(len(rows), "", dtype=object)
    causes[~gone & (event < known)] = STALE
    if history.view.ttl:
        causes[~gone & np.isnat(known) & (event < decided - np.timedelta64(history.view.ttl, "us"))] = STALE
    places = rows[gone]
    if len(places):
        causes[gone] = _absent(history, served, places)
    return causes


def _absent(history: ViewHistory, served: ServedValues, places: Array) -> Array:
    """Of rows that were served nothing: had the store moved past the decision, or not been loaded for so long that
    what it held had run out? Otherwise it is missing."""
    keys, decided, loaded = served.keys[places], served.decided[places], served.loaded[places]
    causes = np.full(len(places), MISSING, dtype=object)
    held = history.as_of(keys, loaded).event
    ttl = np.timedelta64(history.view.ttl or timedelta(days=36500), "us")
    causes[~np.isnat(loaded) & (np.isnat(held) | (held < decided - ttl))] = STALE
    causes[history.replaced_at(keys, decided) <= served.requested[places]] = AFTERWARDS
    return causes


def _values(history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array, told: Array) -> dict[str, Array]:
    """Causes by feature of these rows. Where event times tell nothing, every version of the row served is looked up:
    its values may be of before a correction, or after it; of no version, the code makes them otherwise."""
    causes = {name: told.copy() for name in served.values}
    _unexplained(history, served, rows, causes)
    unclear = (told == "").nonzero()[0]
    if not len(unclear):
        return causes
    asked = rows[unclear]
    at, versions = history.versions_at(served.keys[asked], served.event[asked])
    there = np.isin(np.arange(len(asked)), at)
    late = versions.created > served.decided[asked][at]
    if history.view.timeless:
        places, earlier = history.earlier_at(served.keys[asked])
    for name, values in served.values.items():
        mine = np.full(len(asked), CODE, dtype=object)
        equal = equal_values(values[asked][at], versions.values[name])
        mine[at[equal & late]] = LATE
        mine[at[equal & ~late]] = STALE
        if history.view.timeless:
            mine[places[equal_values(values[asked][places], earlier.values[name])]] = LATE
        mine[~there & (mine == CODE)] = MISSING
        mine[is_missing(values[asked]) & (mine == CODE)] = MISSING
        causes[name][unclear] = mine
    return causes


def _unexplained(history: ViewHistory, served: ServedValues, rows: Array, causes: dict[str, Array]) -> None:
    """Event times explain no value that has none, and none that its own event time never had."""
    event = served.event[rows]
    at, versions = history.versions_at(served.keys[rows], event)
    there = np.isin(np.arange(len(rows)), at)
    for name, values in served.values.items():
        held = np.zeros(len(rows), dtype=bool)
        held[at[equal_values(values[rows][at], versions.values[name])]] = True
        causes[name][np.isnat(event) & ~is_missing(values[rows])] = CODE
        causes[name][(causes[name] == STALE) & there & ~held] = CODE


def _gathered(
    history: ViewHistory, served: ServedValues, then: AsOfValues, found: Mapping[str, Array]
) -> list[Mismatch]:
    """One for each cause of the view; code is each feature's own."""
    gathered: list[Mismatch] = []
    compared = len(served.places)
    for cause in (MISSING, STALE, LATE, AFTERWARDS):
        counts = {name: int(n) for name, causes in found.items() if (n := np.count_nonzero(causes == cause))}
        if counts:
            rows = np.any([causes == cause for causes in found.values()], axis=0).nonzero()[0]
            overdue = _overdue(history, served, then, rows) if cause == STALE else np.empty(0)
            gathered.append(Mismatch(history.view.name, cause, compared, served.places[rows], counts, overdue))
    for name, causes in found.items():
        rows = (causes == CODE).nonzero()[0]
        if len(rows):
            gathered.append(Mismatch(name, CODE, compared, served.places[rows], {name: len(rows)}))
    return gathered


def _overdue(history: ViewHistory, served: ServedValues, then: AsOfValues, rows: Array) -> Array:
    """Seconds for which these rows' values had been replaced by newer ones when they were served."""
    event, decided = served.event[rows], served.decided[rows]
    replaced = history.replaced_at(served.keys[rows], np.where(np.isnat(event), served.loaded[rows], event))
    run_out = event + np.timedelta64(history.view.ttl, "us") if history.view.ttl else np.full(len(rows), _NOT_A_TIME)
    since = np.fmin(np.fmin(replaced, then.since[rows]), np.where(np.isnat(then.event[rows]), run_out, _NOT_A_TIME))
    seconds = (decided - since) / np.timedelta64(1, "s")
    return np.asarray(np.maximum(np.nan_to_num(seconds), 0.0))
