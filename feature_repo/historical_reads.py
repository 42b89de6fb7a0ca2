"""Read features for past decisions, as an up-to-date online store would have returned them at the decision time."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from feature_repo.online import OnlineFeatures, plain_keys
from truecourse.arrays import Values
from truecourse.features.asof import EVENT, AsOfIndex
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem, View
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables


class HistoricReader:
    """Replaces OnlineReader for past decisions. A decision gets only values that were known at its time."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._indexes: dict[str, AsOfIndex] = {}

    def open(self, tables: Tables, versions: Mapping[str, TableVersion], start: datetime, end: datetime) -> None:
        """Load the rows of these table versions that decisions in [start, end] (UTC) can see."""
        for view in self._problem.views:
            rows = tables.read(versions[view.name], where=_visible(view, start, end))
            self._indexes[view.name] = AsOfIndex.of(rows, list(self._keys[view.name]))

    def read(self, columns: Mapping[str, Values], decision_times: Values | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests, as returned by OnlineReader.read()."""
        assert decision_times is not None  # only problems with time are replayed
        times = np.asarray(decision_times, "datetime64[us]")
        features = OnlineFeatures({}, {}, [])
        for view in self._problem.views:
            keys = [plain_keys(column, columns[name]) for name, column in self._keys[view.name].items()]
            values, events = self._indexes[view.name].at(list(zip(*keys, strict=True)), times, view.ttl)
            features.values.update(values)
            times_us = events.astype("datetime64[us]").view(np.int64).tolist()
            features.events.update(dict.fromkeys(view.features, times_us))
        assert all(len(values) == rows for values in features.values.values())
        return features


def _visible(view: View, start: datetime, end: datetime) -> list[Limit]:
    """The filter of rows that can be the newest of their key for a decision in [start, end]."""
    limits: list[Limit] = [(EVENT, "<=", end)]
    if view.timeless or not view.ttl:
        return limits
    return [*limits, (EVENT, ">=", start - view.ttl)]
