"""Reading features as an online store that is always up to date would have held them at each decision's moment."""

from collections.abc import Mapping
from datetime import datetime

from feature_repo.online import OnlineFeatures, plain_keys
from truecourse.asof import EVENT, Prepared
from truecourse.encoding import Array, columns_of
from truecourse.problem import Problem, View
from truecourse.references import TableVersion
from truecourse.tables import Limit, Tables
from truecourse.viewsql import key_columns

_AT, _SINCE = "__at", "__since"


class HistoricReader:
    """In place of an OnlineReader, for decisions of the past. What a decision gets was known by its time, whatever the
    feature tables hold beside it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._held: dict[str, Prepared] = {}

    def open(self, tables: Tables, versions: Mapping[str, TableVersion], start: datetime, end: datetime) -> None:
        """Hold what decisions of [start, end] (UTC) can see of these versions."""
        import polars as pl

        for view in self._problem.views:
            rows = tables.read(versions[view.name], where=_visible(view, start, end))
            frame = pl.DataFrame(rows).with_columns(pl.col(EVENT).alias(_SINCE))
            self._held[view.name] = Prepared.of(frame, list(self._keys[view.name]))

    def read(self, columns: Mapping[str, Array], decision_times: Array | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests, as OnlineReader.read() gives them."""
        import polars as pl

        assert decision_times is not None  # what has no time is not played back
        found = OnlineFeatures({}, {}, [])
        for view in self._problem.views:
            keys = {name: plain_keys(column, columns[name]) for name, column in self._keys[view.name].items()}
            held = self._held[view.name]
            kinds = held.timely.schema
            asked = pl.DataFrame({name: pl.Series(values, dtype=kinds[name]) for name, values in keys.items()})
            asked = asked.with_columns(pl.Series(_AT, decision_times.astype("datetime64[us]")))
            joined = held.join(asked, view.ttl, _AT)
            arrow = joined.select(*view.features, _SINCE).to_arrow(compat_level=pl.CompatLevel.oldest())
            found.values.update(columns_of(arrow, view.features))
            found.events.update(dict.fromkeys(view.features, columns_of(arrow, [_SINCE])[_SINCE]))
        assert all(len(values) == rows for values in found.values.values())
        return found


def _visible(view: View, start: datetime, end: datetime) -> list[Limit]:
    """The rows that can be the newest of their key for a decision of [start, end]."""
    known: list[Limit] = [(EVENT, "<=", end)]
    if view.timeless or not view.ttl:
        return known
    return [*known, (EVENT, ">=", start - view.ttl)]
