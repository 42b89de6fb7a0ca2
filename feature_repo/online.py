"""Read features at prediction time: the newest value of each key, unless it is older than its view's ttl, and
aggregations at the decision time."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from feature_repo.aggregation_steps import split_head
from feature_repo.compat import feast_online_store
from feature_repo.online_location import loaded_marks
from feature_repo.online_reader import Stored, store_reader
from feature_repo.protos import STEPS, entity_keys, value_field
from feature_repo.store import KEY_VERSION, repo_config
from truecourse.arrays import Values
from truecourse.errors import PlatformError, StorageError
from truecourse.features.aggregates.online_steps import Decoder
from truecourse.features.view_sql import key_columns
from truecourse.problem import Aggregations, Problem
from truecourse.problem.namespace import AnyView
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time

_EPOCH, _MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)
NEVER = -(2**63)
"""No event; as a datetime64 it is NaT."""
_MISSING: Stored = (NEVER, {})
PAUSE = 0.5
"""Seconds without reads after the store did not answer, so that requests do not queue behind its timeout."""
CHECKED_FOR = 10.0
"""Seconds for which it is cached which views were loaded."""
_CACHED_KEYS = 50_000
"""Size of the cache of serialized keys (least recently used)."""
_UNUSED_KEY: Mapping[type, Any] = {Text: "", Integer: 0, Float: 0.0, Boolean: False, Time: datetime(1970, 1, 1)}


class ReadObserver(Protocol):
    """Receives the results of reads, for metrics."""

    def record_lookup(self, view: str, keys: int, missed: int, oldest: float | None) -> None:
        """Record a lookup of `keys` keys of a view, `missed` of them without a fresh value.

        `oldest`: age of the oldest fresh value in seconds; None if there is none, or if the problem has no time."""

    def record_unavailable(self, views: Iterable[str]) -> None:
        """Record that the store did not answer for these views."""


@dataclass(frozen=True)
class OnlineFeatures:
    """n values of each feature, and n event times of each view in microseconds since 1970 UTC: all features of a view
    come from one row.

    An event time is NEVER if there is no value, or no fresh one."""

    values: dict[str, Values]
    events: dict[str, Sequence[int]]
    unavailable: list[str]
    """Optional views for which the store did not answer."""
    unfit: dict[str, Sequence[int]] = field(default_factory=dict)
    """By view, the n event times of values that are too old or too new for their decision, else NEVER.

    Only views with such a value are listed."""


class OnlineReader:
    """Reads a problem's online store. Thread-safe."""

    def __init__(self, problem: Problem, watch: ReadObserver | None = None) -> None:
        configs = {view.name: repo_config(problem.namespace_of(view.name)) for view in problem.views}
        self._problem = problem
        self._observer = watch
        self._reader = store_reader(configs, problem)
        self._paused_until = 0.0
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._entities: dict[tuple[str, ...], str] = {}
        """Each distinct set of key columns, with one view that uses it."""
        for view, declared in self._keys.items():
            self._entities.setdefault(tuple(declared), view)
        self._names = {view: tuple(declared) for view, declared in self._keys.items()}
        self._limits = {v.name: v.ttl // _MICROSECOND if v.ttl else math.inf for v in problem.views}
        self._loaded: tuple[float, frozenset[str]] = (-math.inf, frozenset())
        """When the loaded views were last read (monotonic seconds), and their names."""
        self._decoders = {view.name: Decoder(view) for view in problem.views if isinstance(view, Aggregations)}
        self._serialize = lru_cache(_CACHED_KEYS)(partial(_serialize, self._keys))

    def read(self, columns: Mapping[str, Values], decision_times: Values | None, rows: int) -> OnlineFeatures:
        """Read every view feature for `rows` requests.

        columns: request columns, including the entity keys. decision_times: n times (UTC), as datetime64[us] or naive
        datetimes; None if the problem has no time. A value is missing for an unknown or null key, and if its event is
        after the decision, or before it by more than the ttl. Raises PlatformError if the store does not answer, unless
        all views are optional then.
        """
        serialized = self._keys_of(columns)
        keys = {view: serialized[names] for view, names in self._names.items()}
        unavailable: list[str] = []
        try:
            present = {
                names: [key for key in dict.fromkeys(some) if key is not None] for names, some in serialized.items()
            }
            stored = self._fetch({view: present[names] for view, names in self._names.items()})
        except PlatformError:
            if self._observer is not None:
                self._observer.record_unavailable(keys)
            if self.is_required:
                raise
            stored = {view: {} for view in keys}
            unavailable += keys
        features = OnlineFeatures({}, {}, unavailable)
        moments = None if decision_times is None else _microseconds(decision_times)
        for view in self._problem.views:
            answers = [None if key is None else stored[view.name].get(key) for key in keys[view.name]]
            assert len(answers) == rows
            if view.name in self._decoders:
                assert moments is not None  # `check` rejects aggregations in a problem without time
                self._add_aggregates(features, view, keys[view.name], answers, moments)
            else:
                self._add(features, view, answers, moments)
        return features

    @property
    def is_required(self) -> bool:
        """Whether a prediction needs the store."""
        return any(view.when_unavailable == "fail" for view in self._problem.views)

    def check_connection(self) -> None:
        """Test the connection by looking up any key. Raises PlatformError if the store does not answer."""
        view = self._problem.views[0]
        unused = tuple(_UNUSED_KEY[type(column)] for column in self._keys[view.name].values())
        self._fetch({view.name: [self._serialize(view.name, unused)]})

    def _fetch(self, keys: Mapping[str, list[bytes]]) -> dict[str, dict[bytes, Stored]]:
        with self._answers():
            return self._reader.fetch(keys)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Raise PlatformError if the store does not answer, and then for PAUSE seconds at once."""
        if time.monotonic() < self._paused_until:
            raise PlatformError("the online store did not answer a moment ago", hint="try again in a second")
        try:
            yield
        except Exception as error:  # each store has its own error classes
            self._paused_until = time.monotonic() + PAUSE
            hint = f"truecourse run materialize --problem {self._problem.name}; or check TRUECOURSE_ONLINE_STORE"
            what = f"the online store does not answer: {type(error).__name__}"  # clients see it: no addresses
            raise PlatformError(what, hint=hint) from error

    def _keys_of(self, columns: Mapping[str, Values]) -> dict[tuple[str, ...], list[bytes | None]]:
        """The serialized keys of the requests, by key columns; None for a key with a missing value."""
        serialized: dict[tuple[str, ...], list[bytes | None]] = {}
        for names, view in self._entities.items():
            parts = [plain_keys(column, columns[name]) for name, column in self._keys[view].items()]
            serialized[names] = [
                None if None in key else self._serialize(view, key) for key in zip(*parts, strict=True)
            ]
        return serialized

    def _add_aggregates(
        self,
        features: OnlineFeatures,
        view: AnyView,
        keys: Sequence[bytes | None],
        answers: list[Stored | None],
        moments: list[int],
    ) -> None:
        """Add the aggregations of each key at the decision times to `features`. They are missing if the decision is
        before the time from which the stored steps hold, or if the view was never loaded."""
        times = [NEVER] * len(answers)
        rows: list[Mapping[str, Any]] = [{}] * len(answers)
        unfit: dict[int, int] = {}
        for place, (key, answer) in enumerate(zip(keys, answers, strict=True)):
            if view.name in features.unavailable:
                break
            try:
                since, times[place], rows[place] = self._aggregate(view, key, answer, moments[place])
            except (PlatformError, StorageError) as error:
                if self.is_required:
                    raise PlatformError(error.what, where=error.where, hint=error.hint) from error
                features.unavailable.append(view.name)
            if since > moments[place]:
                unfit[place] = since
        self._observe(view, times, moments)
        if unfit:
            features.unfit[view.name] = [unfit.get(place, NEVER) for place in range(len(answers))]
        for name in view.features:
            features.values[name] = [row.get(name) for row in rows]
        features.events[view.name] = times

    def _aggregate(
        self, view: AnyView, key: bytes | None, answer: Stored | None, moment: int
    ) -> tuple[int, int, Mapping[str, Any]]:
        """The time from which a key's steps hold, the time as of which its values are, and the values."""
        decoder = self._decoders[view.name]
        if key is None or answer is None:
            return NEVER, NEVER, decoder.nothing if key is None or self._is_loaded(view) else {}
        since, loaded, steps = split_head(answer[1][STEPS])
        if moment < since:
            return since, NEVER, {}
        return since, min(moment, loaded), decoder.at(steps, moment, partial(self._later, view, key))

    def _later(self, view: AnyView, key: bytes) -> bytes | None:
        """The later steps of a key. Raises PlatformError if the store does not answer."""
        with self._answers():
            return self._reader.fetch_later(view.name, key)

    def _is_loaded(self, view: AnyView) -> bool:
        """Whether the view was loaded, so that a key without record has no events."""
        checked, names = self._loaded
        if time.monotonic() - checked > CHECKED_FOR:
            names = frozenset(loaded_marks(self._problem))
            self._loaded = time.monotonic(), names
        return view.name in names

    def _observe(self, view: AnyView, times: Sequence[int], moments: Sequence[int]) -> None:
        if self._observer is None:
            return
        ages = [moment - time for time, moment in zip(times, moments, strict=True) if time != NEVER]
        self._observer.record_lookup(view.name, len(times), len(times) - len(ages), max(ages) / 1e6 if ages else None)

    def _add(
        self, features: OnlineFeatures, view: AnyView, answers: list[Stored | None], moments: list[int] | None
    ) -> None:
        """Add a view's values that are fresh at the decision times (`moments`, in microseconds) to `features`."""
        limit, fresh, missed, oldest = self._limits[view.name], [], 0, -1
        unfit: dict[int, int] = {}
        for place, answer in enumerate(answers):
            age = 0 if moments is None or answer is None else moments[place] - answer[0]
            if answer is None or not 0 <= age <= limit:
                fresh.append(_MISSING)
                missed += 1
                if answer is not None:
                    unfit[place] = answer[0]
            else:
                fresh.append(answer)
                oldest = max(oldest, age)
        if self._observer is not None:
            seconds = None if moments is None or oldest < 0 else oldest / 1e6
            self._observer.record_lookup(view.name, len(answers), missed, seconds)
        if unfit:
            features.unfit[view.name] = [unfit.get(place, NEVER) for place in range(len(answers))]
        features.events[view.name] = [event for event, _ in fresh]
        for name in view.features:
            features.values[name] = [stored.get(name) for _, stored in fresh]


def _microseconds(times: Values) -> list[int]:
    if isinstance(times, np.ndarray):
        microseconds: list[int] = times.astype("datetime64[us]").view(np.int64).tolist()
        return microseconds
    return [(time - _EPOCH) // _MICROSECOND for time in times]


def _serialize(keys: Mapping[str, Mapping[str, AnyColumn]], view: str, key: tuple[Any, ...]) -> bytes:
    """The bytes of a key in the store, the same for all views of an entity."""
    fields = [value_field(column) for column in keys[view].values()]
    (message,) = entity_keys(list(keys[view]), fields, [key])
    return feast_online_store.key_bytes(message, KEY_VERSION)


def plain_keys(column: AnyColumn, values: Values) -> Sequence[Any]:
    """Key values as Python objects of the declared type, None where one is missing."""
    if not isinstance(values, np.ndarray):
        return values
    if isinstance(column, Text):
        return [value if isinstance(value, str) else None for value in values.tolist()]
    if isinstance(column, Time):
        return [None if np.isnat(value) else value.item() for value in values]
    kind = int if isinstance(column, Integer) else bool if isinstance(column, Boolean) else float
    numbers = np.asarray(values, dtype=np.float64)
    invalid = np.isnan(numbers) | (np.floor(numbers) != numbers) if not isinstance(column, Float) else np.isnan(numbers)
    return [None if bad else kind(number) for bad, number in zip(invalid.tolist(), numbers.tolist(), strict=True)]
