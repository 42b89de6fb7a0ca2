"""Reading features as an online store that is always up to date would have held them at each decision's moment."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from feature_repo.online import OnlineFeatures, plain_keys
from truecourse.arrays import Values
from truecourse.features.asof import EVENT
from truecourse.features.asof_index import AsOfIndex
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem, View
from truecourse.references import TableVersion
from truecourse.storage.tables import Limit, Tables


class HistoricReader:
    """In place of an OnlineReader, for decisions of the past. What a decision gets was known by its time, whatever the
    feature tables hold beside it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._held: dict[str, AsOfIndex] = {}

    def open(self, tables: Tables, versions: Mapping[str, TableVersion], start: datetime, end: datetime) -> None:
        """Hold what decisions of [start, end] (UTC) can see of these versions."""
        for view in self._problem.views:
            rows = tables.read(versions[view.name], where=_visible(view, start, end))
            self._held[view.name] = AsOfIndex.of(rows, list(self._keys[view.name]))

    def read(self, columns: Mapping[str, Values], decision_times: Values | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests, as OnlineReader.read() gives them."""
        assert decision_times is not None  # what has no time is not played back
        times = np.asarray(decision_times, "datetime64[us]")
        found = OnlineFeatures({}, {}, [])
        for view in self._problem.views:
            asked = [plain_keys(column, columns[name]) for name, column in self._keys[view.name].items()]
            values, events = self._held[view.name].at(list(zip(*asked, strict=True)), times, view.ttl)
            found.values.update(values)
            moments = events.astype("datetime64[us]").view(np.int64).tolist()
            found.events.update(dict.fromkeys(view.features, moments))
        assert all(len(values) == rows for values in found.values.values())
        return found


def _visible(view: View, start: datetime, end: datetime) -> list[Limit]:
    """The rows that can be the newest of their key for a decision of [start, end]."""
    known: list[Limit] = [(EVENT, "<=", end)]
    if view.timeless or not view.ttl:
        return known
    return [*known, (EVENT, ">=", start - view.ttl)]
