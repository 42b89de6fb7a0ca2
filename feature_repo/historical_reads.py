"""Read features for past decisions, as an up-to-date online store would have returned them at the decision time."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from feature_repo.online import OnlineFeatures, plain_keys
from truecourse.arrays import Array, Values
from truecourse.features.aggregates.evaluation import AggregateIndex
from truecourse.features.aggregation_lookup import longest_window
from truecourse.features.asof import EVENT, AsOfIndex
from truecourse.features.view_sql import key_columns
from truecourse.problem import Aggregations, Problem
from truecourse.problem.namespace import AnyView
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables

_Lookup = Callable[[Sequence[tuple[Any, ...]], Array], tuple[dict[str, Array], Array]]
"""From n keys and n times to n values by feature, and the n times as of which they hold."""


class HistoricReader:
    """Replaces OnlineReader for past decisions. A decision gets only values that were known at its time."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._lookups: dict[str, _Lookup] = {}

    def open(self, tables: Tables, versions: Mapping[str, TableVersion], start: datetime, end: datetime) -> None:
        """Load the rows of these table versions that decisions in [start, end] (UTC) can see."""
        for view in self._problem.views:
            rows = tables.read(versions[view.name], where=_visible(view, start, end))
            if isinstance(view, Aggregations):
                self._lookups[view.name] = _evaluation(AggregateIndex(view, rows))
            else:
                self._lookups[view.name] = _as_of(AsOfIndex.of(rows, list(self._keys[view.name])), view)

    def read(self, columns: Mapping[str, Values], decision_times: Values | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests, as returned by OnlineReader.read()."""
        assert decision_times is not None  # only problems with time are replayed
        times = np.asarray(decision_times, "datetime64[us]")
        features = OnlineFeatures({}, {}, [])
        for view in self._problem.views:
            keys = [plain_keys(column, columns[name]) for name, column in self._keys[view.name].items()]
            values, events = self._lookups[view.name](list(zip(*keys, strict=True)), times)
            features.values.update(values)
            times_us = events.astype("datetime64[us]").view(np.int64).tolist()
            features.events[view.name] = times_us
        assert all(len(values) == rows for values in features.values.values())
        return features


def _evaluation(index: AggregateIndex) -> _Lookup:
    return lambda keys, times: (index.at(keys, times), times)


def _as_of(index: AsOfIndex, view: AnyView) -> _Lookup:
    return lambda keys, times: index.at(keys, times, view.ttl)


def _visible(view: AnyView, start: datetime, end: datetime) -> list[Limit]:
    """The filter of rows that can count for a decision in [start, end]."""
    limits: list[Limit] = [(EVENT, "<=", end)]
    memory = longest_window(view) if isinstance(view, Aggregations) else view.ttl
    if view.timeless or not memory:
        return limits
    return [*limits, (EVENT, ">=", start - memory)]
