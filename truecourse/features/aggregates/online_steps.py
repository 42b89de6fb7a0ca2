"""The features of one key from a moment on, as bytes for the online store: steps, found by binary search.

A record is a list of 8-byte words in the machine's order, then text. The header holds a mark, the moment from which the
record is no longer valid, the place of the text, and for each feature its kind, its first word and the word that stands
for a missing value. A feature has its ascending moments (microseconds), then the value from each moment on: a double,
an integer, or a place in the list of texts. The value of an age is the time of its event.

Only the standard library is used: the endpoint reads records.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from truecourse.errors import StorageError
from truecourse.problem.aggregations import Age, Aggregations, Count, CountDistinct

FLOAT, INTEGER, BOOLEAN, TEXT, AGE = range(5)
FOREVER = (1 << 63) - 1
MICROSECONDS = {"seconds": 1_000_000, "minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}
MOST_STEPS = 256
"""The largest number of steps of a feature in a key's first record."""
_MARK = 0x31_47_47_41_43_54_00_01
_HEADER = 3
_HINT = "run `truecourse run materialize`, which loads the online store again"
Bytes = bytes | memoryview


@dataclass(frozen=True)
class Steps:
    """One feature of one key: `words[i]` is the value from `moments[i]` on, as 8 bytes (little-endian int64 arrays).

    `missing`: the word that stands for a missing value. `texts`: the texts to which words of kind TEXT refer."""

    kind: int
    moments: Any
    words: Any
    missing: int = 0
    texts: Sequence[str] = ()


def encode(steps: Sequence[Steps]) -> tuple[bytes, bytes | None]:
    """Encode one key's features: the record to read first, and the record from its end on, None if it has no end."""
    ends = [int(each.moments[MOST_STEPS]) for each in steps if len(each.moments) > MOST_STEPS]
    if not ends:
        return _record(steps, FOREVER), None
    end = min(ends)
    return _record([_part(each, None, end) for each in steps], end), _record(
        [_part(each, end, None) for each in steps], FOREVER
    )


def _part(steps: Steps, start: int | None, end: int | None) -> Steps:
    """The steps that are needed from `start` to `end`."""
    first = 0 if start is None else bisect_right(steps.moments, start) - 1
    last = None if end is None else max(bisect_right(steps.moments, end - 1), 1)
    return Steps(steps.kind, steps.moments[first:last], steps.words[first:last], steps.missing, steps.texts)


def _record(steps: Sequence[Steps], end: int) -> bytes:
    place, header, body, texts = _HEADER + 3 * len(steps), [], [], _Texts()
    for each in steps:
        words = texts.words(each) if each.kind == TEXT else each.words
        header += [each.kind, place, each.missing]
        body += [each.moments.tobytes(), words.tobytes()]
        place += 2 * len(words)
    front = struct.pack(f"={_HEADER + len(header)}q", _MARK, end, place, *header)
    return b"".join([front, *body, texts.bytes()])


class _Texts:
    """The distinct texts of a record."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def words(self, steps: Steps) -> Any:
        words = steps.words.copy()
        for place, word in enumerate(steps.words.tolist()):
            if word != steps.missing:
                words[place] = self._places.setdefault(steps.texts[word], len(self._places))
        return words

    def bytes(self) -> bytes:
        encoded = [text.encode() for text in self._places]
        ends = [*accumulate(map(len, encoded))]
        content = struct.pack(f"={len(ends) + 1}q", len(ends), *ends) + b"".join(encoded)
        return content + bytes(-len(content) % 8)


class Decoder:
    """Reads the records of aggregations."""

    def __init__(self, spec: Aggregations) -> None:
        self._where = f"features {spec.name}"
        self._units = [
            (name, MICROSECONDS[each.unit] if isinstance(each, Age) else 1) for name, each in spec.features.items()
        ]
        self._header = struct.Struct(f"={_HEADER + 3 * len(self._units)}q")
        self.nothing: dict[str, Any] = {
            name: 0 if isinstance(function, Count | CountDistinct) else None for name, function in spec.features.items()
        }
        """The values of a key without rows."""

    def at(self, record: Bytes, time: int, later: Callable[[], Bytes | None] | None = None) -> dict[str, Any]:
        """A key's features at `time` (microseconds UTC): plain Python values, None if missing.

        `later`: reads the key's later record, if it is needed. Before the moment of the load, values are those at the
        load, and ages count from `time`. Raises StorageError if the later record is needed and there is none, and if a
        record was not written for these features."""
        header, words, doubles = self._read(record)
        if time >= header[1]:
            return self.at(self._later(later), time)
        values: dict[str, Any] = {}
        place = _HEADER
        for name, unit in self._units:
            kind, first, missing = header[place : place + 3]
            place += 3
            half = (header[place + 1] - first) >> 1 if place < len(header) else (header[2] - first) >> 1
            found = bisect_right(words, time, first + 1, first + half) + half - 1
            if kind == FLOAT:
                value = doubles[found]
                values[name] = value if value == value else None
                continue
            word = words[found]
            if word == missing:
                values[name] = None
            elif kind == INTEGER:
                values[name] = word
            elif kind == AGE:
                values[name] = (time - word) / unit
            else:
                values[name] = bool(word) if kind == BOOLEAN else _text(record, words, header[2], word)
        return values

    def _read(self, record: Bytes) -> tuple[tuple[int, ...], Any, Any]:
        """The header of a record, and its words as integers and as doubles."""
        try:
            header = self._header.unpack_from(record)
            if header[0] != _MARK or (self._units and header[_HEADER + 1] != len(header)):
                raise ValueError
            view = memoryview(record)
            return header, view.cast("q"), view.cast("d")
        except (ValueError, TypeError, struct.error) as error:
            raise StorageError("the record has another format", where=self._where, hint=_HINT) from error

    def _later(self, later: Callable[[], Bytes | None] | None) -> Bytes:
        record = later() if later is not None else None
        if record is None:
            what = "the steps from this moment on are not in the online store"
            raise StorageError(what, where=self._where, hint=_HINT)
        return record


def _text(record: Bytes, words: Any, first: int, number: int) -> str:
    """A text of a record, whose list of texts starts at the word `first`: their number, the end of each, the bytes."""
    start = 8 * (first + 1 + words[first])
    begin = words[first + number] if number else 0
    return str(record[start + begin : start + words[first + 1 + number]], "utf-8")
