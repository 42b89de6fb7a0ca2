"""Reading features at prediction time: the newest value of each key, unless it is older than its view's ttl."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from feature_repo.protos import EXACT_EVENT, array_of, entity_keys, field_of
from feature_repo.store import open_feature_store
from truecourse.encoding import Array
from truecourse.errors import PlatformError
from truecourse.problem import Problem, View
from truecourse.schema import AnyColumn, Boolean, Float, Integer, Text, Time
from truecourse.viewsql import key_columns

_MICROSECOND = timedelta(microseconds=1)
_NEVER = np.iinfo(np.int64).min
"""No event: as a datetime64 it is NaT."""
_CHUNK = 10_000
"""Keys asked for at once; sqlite takes 32,766 at most."""


@dataclass(frozen=True)
class OnlineFeatures:
    """Features as columns_of() gives them, n values each, and of each the event times: (n,) datetime64[us] UTC, NaT
    where nothing was found, or nothing fresh."""

    values: dict[str, Array]
    events: dict[str, Array]


class OnlineReader:
    """Reads a problem's online store. Safe for threads: a sqlite store shared by two gives wrong answers, so each
    thread has a store of its own."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._local = threading.local()
        store = open_feature_store(problem)
        self._config = store.config
        self._views = {view.name: store.get_feature_view(view.name) for view in problem.views}
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}

    def read(self, columns: Mapping[str, Array], decision_times: Array | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests.

        columns: the entity keys among them. decision_times: (n,) datetime64[us] UTC; None where the problem has no
        time. A value is missing for an unknown or null key, and where its event lies after the decision or more than
        the ttl before it. Raises PlatformError if the store does not answer.
        """
        found = OnlineFeatures({}, {})
        for view in self._problem.views:
            values, events = self._read_view(view, columns, decision_times, rows)
            found.values.update(values)
            found.events.update(dict.fromkeys(view.features, events))
        return found

    def _read_view(
        self, view: View, columns: Mapping[str, Array], decision_times: Array | None, rows: int
    ) -> tuple[dict[str, Array], Array]:
        keys = self._keys[view.name]
        asked = [_plain(column, columns[name]) for name, column in keys.items()]
        tuples = list(zip(*asked, strict=True))
        known = self._fetch(view, keys, {key for key in tuples if None not in key})
        answers = [known.get(key) for key in tuples]
        events = np.array([_NEVER if a is None else a[0] for a in answers], dtype=np.int64)
        fresh = (events != _NEVER) & _fresh(view, events, decision_times)
        used = [a[1] if a is not None and ok else {} for a, ok in zip(answers, fresh, strict=True)]
        assert len(used) == rows
        times = np.where(fresh, events, _NEVER).astype("datetime64[us]")
        return {name: array_of(column, [v.get(name) for v in used]) for name, column in view.features.items()}, times

    def _fetch(
        self, view: View, keys: Mapping[str, AnyColumn], wanted: Iterable[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], tuple[int, dict[str, Any]]]:
        """Event time in microseconds, and values, of the keys that are there."""
        found: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
        wanted, fields = list(wanted), [field_of(column) for column in keys.values()]
        asked = [*view.features, EXACT_EVENT]
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            messages = entity_keys(list(keys), fields, chunk)
            try:
                answers = self._store.online_read(self._config, self._views[view.name], messages, list(asked))
            except Exception as error:  # each store has its own kinds
                cure = f"truecourse run materialize --problem {self._problem.name}; or check TRUECOURSE_ONLINE_STORE"
                raise PlatformError(f"the online store does not answer: {error}", where=view.name, cure=cure) from error
            for key, (moment, values) in zip(chunk, answers, strict=True):
                if moment is not None and values:
                    found[key] = (_event(moment, values), values)
        return found

    @property
    def _store(self) -> Any:
        if not hasattr(self._local, "store"):
            from feast.infra.online_stores.helpers import get_online_store_from_config

            self._local.store = get_online_store_from_config(self._config.online_store)
        return self._local.store


def _event(moment: Any, values: dict[str, Any]) -> int:
    exact = values.get(EXACT_EVENT)
    return exact.int64_val if exact is not None and exact.WhichOneof("val") else int(moment.timestamp() * 1_000_000)


def _fresh(view: View, events: Array, decision_times: Array | None) -> Array:
    if decision_times is None:
        return np.ones(len(events), dtype=bool)
    times = decision_times.astype("datetime64[us]")
    age = times.astype(np.int64) - events
    limit = view.ttl // _MICROSECOND if view.ttl else np.iinfo(np.int64).max
    fresh: Array = ~np.isnat(times) & (age >= 0) & (age <= limit)
    return fresh


def _plain(column: AnyColumn, values: Array) -> list[Any]:
    """Key values as Python objects of the declared type, None where one is missing."""
    if isinstance(column, Text):
        return [value if isinstance(value, str) else None for value in values.tolist()]
    if isinstance(column, Time):
        return [None if np.isnat(value) else value.item() for value in values]
    kind = int if isinstance(column, Integer) else bool if isinstance(column, Boolean) else float
    numbers = np.asarray(values, dtype=np.float64)
    whole = np.isnan(numbers) | (np.floor(numbers) != numbers) if not isinstance(column, Float) else np.isnan(numbers)
    return [None if bad else kind(number) for bad, number in zip(whole.tolist(), numbers.tolist(), strict=True)]
