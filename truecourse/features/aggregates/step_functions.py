"""The features of keys from a moment on, as step functions: evaluate() at each moment at which a value can change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.features.aggregates import online_steps
from truecourse.features.aggregates.evaluation import AggregateIndex, Decisions, Result
from truecourse.features.aggregates.online_steps import Decoder, Steps, encode
from truecourse.features.aggregates.stored_rows import NEVER
from truecourse.problem.aggregations import Aggregations

if TYPE_CHECKING:
    import polars as pl

_KINDS = {
    "float": online_steps.FLOAT, "integer": online_steps.INTEGER, "boolean": online_steps.BOOLEAN,
    "text": online_steps.TEXT, "time": online_steps.INTEGER, "age": online_steps.AGE,
}  # fmt: skip
_LEAST = -(1 << 63)


@dataclass(frozen=True)
class _Feature:
    """One feature of n keys: key k has the steps from first[k] to first[k + 1]."""

    kind: int
    first: Array
    moments: Array
    words: Array
    missing: int
    texts: list[str]

    def of(self, key: int) -> Steps:
        steps = slice(self.first[key], self.first[key + 1])
        return Steps(self.kind, self.moments[steps], self.words[steps], self.missing, self.texts)


class StepFunctions:
    """The step functions of n keys from a moment on."""

    def __init__(
        self, spec: Aggregations, rows: "pa.Table | pl.DataFrame", keys: "pa.Table | pl.DataFrame", until: np.datetime64
    ) -> None:
        """`rows`, `keys`: as for evaluate(). `until`: the moment of the load, datetime64."""
        self._index = AggregateIndex(spec, rows)
        self._codes = self._index.rows.codes_of(keys)
        self._until = int(until.astype("datetime64[us]").astype(np.int64))
        self._features = [self._feature(name) for name in spec.features]

    def of(self, key: int) -> list[Steps]:
        """The features of one key, by its place in `keys`, in the order of `spec.features`."""
        return [feature.of(key) for feature in self._features]

    def _feature(self, name: str) -> _Feature:
        """Evaluate a feature at the moment of the load and wherever a row starts or ends to count."""
        rows, starts, ends = self._index.active(name)
        codes = self._index.rows.codes[rows]
        of_code, moments = self._changes(codes, starts, ends)
        place_of, first_of = self._spread(of_code)
        keys = np.repeat(np.arange(len(self._codes)), first_of)
        times = moments[place_of]
        loads = np.arange(len(self._codes))
        keys, times = np.concatenate([loads, keys]), np.concatenate([np.full(len(loads), self._until), times])
        order = np.lexsort((times, keys))
        keys, times = keys[order], times[order]
        decisions = Decisions.of(self._codes[keys], times, self._index.rows)
        result = self._index.result(name, decisions)
        valid = np.broadcast_to(result.valid, result.values.shape)
        placed = replace(result, values=decisions.placed(result.values), valid=decisions.placed(valid))
        return _steps(placed, keys, times, len(self._codes))

    def _changes(self, codes: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
        """The codes and moments after the load at which a row starts or ends to count, by code."""
        codes, moments = np.concatenate([codes, codes]), np.concatenate([starts, ends])
        wanted = (moments > self._until) & (moments < NEVER)
        codes, moments = codes[wanted], moments[wanted]
        order = np.lexsort((moments, codes))
        codes, moments = codes[order], moments[order]
        is_new = np.ones(len(codes), bool)
        is_new[1:] = (codes[1:] != codes[:-1]) | (moments[1:] != moments[:-1])
        return codes[is_new], moments[is_new]

    def _spread(self, codes: Array) -> tuple[Array, Array]:
        """For each key, the places of its code in ascending `codes`, one after the other, and their number."""
        first = np.searchsorted(codes, self._codes, side="left")
        number = np.where(self._codes >= 0, np.searchsorted(codes, self._codes, side="right") - first, 0)
        before = np.cumsum(number) - number
        return np.arange(number.sum()) + np.repeat(first - before, number), number


def _steps(result: Result, keys: Array, times: Array, count: int) -> _Feature:
    """Keep the moments at which the value changes. `keys` ascend, and `times` of each."""
    kind = _KINDS[result.kind]
    values = result.values.view(np.int64)
    missing = int(np.array(np.nan).view(np.int64)) if kind == online_steps.FLOAT else _unused(values[result.valid])
    words = np.where(result.valid, values, missing)
    changes = np.ones(len(words), bool)
    changes[1:] = (words[1:] != words[:-1]) | (keys[1:] != keys[:-1])
    first = np.searchsorted(keys[changes], np.arange(count + 1))
    return _Feature(kind, first, times[changes], words[changes], missing, result.texts.tolist())


def _unused(values: Array) -> int:
    """A number that is not among the values."""
    number = _LEAST
    while (values == number).any():
        number += 1
    return number


def encode_keys(
    spec: Aggregations, rows: "pa.Table | pl.DataFrame", keys: "pa.Table | pl.DataFrame", until: np.datetime64
) -> Iterator[tuple[bytes, bytes | None, dict[str, Any]]]:
    """Encode the features of n keys for the online store, in the order of the keys: the record, that of later moments,
    and the values at `until`, the moment of the load (datetime64).

    `rows`: as for evaluate(); those that are not known at `until` count from the moment at which they are known."""
    steps, decoder = StepFunctions(spec, rows, keys, until), Decoder(spec)
    moment = int(until.astype("datetime64[us]").astype(np.int64))
    count = keys.num_rows if isinstance(keys, pa.Table) else keys.height
    for key in range(count):
        record, later = encode(steps.of(key))
        yield record, later, decoder.at(record, moment)
