"""Reading features at prediction time: the newest value of each key, unless it is older than its view's ttl."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from feature_repo.protos import entity_keys, field_of
from feature_repo.reading import Stored, store_reader
from feature_repo.store import repo_config
from truecourse.arrays import Values
from truecourse.errors import PlatformError
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem, View
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time

_EPOCH, _MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)
NEVER = -(2**63)
"""No event: as a datetime64 it is NaT."""
_NOTHING: Stored = (NEVER, {})
REST = 0.5
"""Seconds for which a store that did not answer is not asked again: requests must not queue behind its timeout."""
_REMEMBERED = 50_000
"""Keys whose bytes are kept, the latest used."""
_NOBODY: Mapping[type, Any] = {Text: "", Integer: 0, Float: 0.0, Boolean: False, Time: datetime(1970, 1, 1)}


class ReadObserver(Protocol):
    """Told of reads as they happen."""

    def record_lookup(self, view: str, keys: int, missed: int, oldest: float | None) -> None:
        """So many keys of a view, of which so many had no value fresh enough. `oldest`: age of the oldest value that
        was, seconds; None without one, and where the problem has no time."""

    def record_unavailable(self, views: Iterable[str]) -> None:
        """The store did not answer for these."""


@dataclass(frozen=True)
class OnlineFeatures:
    """n values of each feature, and of each the n event times: microseconds since 1970 UTC, NEVER where nothing was
    found, or nothing fresh."""

    values: dict[str, Values]
    events: dict[str, Sequence[int]]
    unavailable: list[str]
    """The views that the store did not answer for, and that may be missing."""
    unfit: dict[str, Sequence[int]] = field(default_factory=dict)
    """Of each view with a value too old or too new for its decision the n event times of such values, else NEVER."""


class OnlineReader:
    """Reads a problem's online store. Safe for threads."""

    def __init__(self, problem: Problem, watch: ReadObserver | None = None) -> None:
        config = repo_config(problem)
        self._problem = problem
        self._watch = watch
        self._reader = store_reader(config, problem.views)
        self._rests_until = 0.0
        self._keys = {view.name: key_columns(problem, view) for view in problem.views}
        self._entities: dict[tuple[str, ...], str] = {}
        """The keys' columns, each once, with a view that is looked up by them."""
        for view, declared in self._keys.items():
            self._entities.setdefault(tuple(declared), view)
        self._names = {view: tuple(declared) for view, declared in self._keys.items()}
        self._limits = {v.name: v.ttl // _MICROSECOND if v.ttl else math.inf for v in problem.views}
        self._serialised = lru_cache(_REMEMBERED)(partial(_serialised, self._keys, config))

    def read(self, columns: Mapping[str, Values], decision_times: Values | None, rows: int) -> OnlineFeatures:
        """Every view feature for `rows` requests.

        columns: the entity keys among them. decision_times: n of them, UTC, as datetime64[us] or naive datetimes; None
        where the problem has no time. A value is missing for an unknown or null key, and where its event lies after the
        decision or more than the ttl before it. Raises PlatformError if the store does not answer, unless every view
        may then be missing.
        """
        made = self._keys_of(columns)
        keys = {view: made[names] for view, names in self._names.items()}
        unavailable: list[str] = []
        try:
            asked = {names: [key for key in dict.fromkeys(some) if key is not None] for names, some in made.items()}
            known = self._fetch({view: asked[names] for view, names in self._names.items()})
        except PlatformError:
            if self._watch is not None:
                self._watch.record_unavailable(keys)
            if self.required:
                raise
            known = {view: {} for view in keys}
            unavailable += keys
        found = OnlineFeatures({}, {}, unavailable)
        moments = None if decision_times is None else _microseconds(decision_times)
        for view in self._problem.views:
            answers = [None if key is None else known[view.name].get(key) for key in keys[view.name]]
            assert len(answers) == rows
            self._add(found, view, answers, moments)
        return found

    @property
    def required(self) -> bool:
        """Whether there is no answer without the store."""
        return any(view.when_unavailable == "fail" for view in self._problem.views)

    def reach(self) -> None:
        """Look a key up that need not be there. Raises PlatformError if the store does not answer."""
        view = self._problem.views[0]
        nobody = tuple(_NOBODY[type(column)] for column in self._keys[view.name].values())
        self._fetch({view.name: [self._serialised(view.name, nobody)]})

    def _fetch(self, wanted: Mapping[str, list[bytes]]) -> dict[str, dict[bytes, Stored]]:
        if time.monotonic() < self._rests_until:
            raise PlatformError("the online store did not answer just now", hint="try again in a second")
        try:
            return self._reader.fetch(wanted)
        except Exception as error:  # each store has its own kinds
            self._rests_until = time.monotonic() + REST
            hint = f"truecourse run materialize --problem {self._problem.name}; or check TRUECOURSE_ONLINE_STORE"
            what = f"the online store does not answer: {type(error).__name__}"  # clients read it: no addresses
            raise PlatformError(what, hint=hint) from error

    def _keys_of(self, columns: Mapping[str, Values]) -> dict[tuple[str, ...], list[bytes | None]]:
        """The keys of the requests, by their columns."""
        made: dict[tuple[str, ...], list[bytes | None]] = {}
        for names, view in self._entities.items():
            asked = [plain_keys(column, columns[name]) for name, column in self._keys[view].items()]
            made[names] = [None if None in key else self._serialised(view, key) for key in zip(*asked, strict=True)]
        return made

    def _add(self, found: OnlineFeatures, view: View, answers: list[Stored | None], moments: list[int] | None) -> None:
        """What was stored of a view, where it is fresh at the `moments` of the decisions, in microseconds."""
        limit, fresh, missed, oldest = self._limits[view.name], [], 0, -1
        unfit: dict[int, int] = {}
        for place, answer in enumerate(answers):
            age = 0 if moments is None or answer is None else moments[place] - answer[0]
            if answer is None or not 0 <= age <= limit:
                fresh.append(_NOTHING)
                missed += 1
                if answer is not None:
                    unfit[place] = answer[0]
            else:
                fresh.append(answer)
                oldest = max(oldest, age)
        if self._watch is not None:
            told = None if moments is None or oldest < 0 else oldest / 1e6
            self._watch.record_lookup(view.name, len(answers), missed, told)
        if unfit:
            found.unfit[view.name] = [unfit.get(place, NEVER) for place in range(len(answers))]
        times, values, events = [event for event, _ in fresh], found.values, found.events
        for name in view.features:
            values[name] = [stored.get(name) for _, stored in fresh]
            events[name] = times


def _microseconds(times: Values) -> list[int]:
    if isinstance(times, np.ndarray):
        found: list[int] = times.astype("datetime64[us]").view(np.int64).tolist()
        return found
    return [(time - _EPOCH) // _MICROSECOND for time in times]


def _serialised(keys: Mapping[str, Mapping[str, AnyColumn]], config: Any, view: str, key: tuple[Any, ...]) -> bytes:
    """A key as the store knows it: the same bytes for all views of an entity."""
    from feast.infra.key_encoding_utils import serialize_entity_key

    fields = [field_of(column) for column in keys[view].values()]
    (message,) = entity_keys(list(keys[view]), fields, [key])
    return bytes(serialize_entity_key(message, config.entity_key_serialization_version))


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
    whole = np.isnan(numbers) | (np.floor(numbers) != numbers) if not isinstance(column, Float) else np.isnan(numbers)
    return [None if bad else kind(number) for bad, number in zip(whole.tolist(), numbers.tolist(), strict=True)]
