"""Private values in the prediction log: hashed or dropped before anything is written."""

import hashlib
import hmac
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from truecourse.hashing import canonical_json
from truecourse.problem import Problem
from truecourse.problem.schema import Privacy

log = logging.getLogger("truecourse.log")
HASHED = "hmac-sha256:"


@dataclass(frozen=True)
class Masks:
    """What is kept of which values, by name of request field or feature."""

    marks: Mapping[str, Privacy]
    secret: bytes

    @classmethod
    def of(cls, problem: Problem, secret: bytes) -> Self:
        """What the problem declares. Without a secret nothing is hashed, since anybody could hash all likely values and
        compare: those fields are dropped instead, and the log says so."""
        declared = private_names(problem)
        hashed = sorted(name for name, mark in declared.items() if mark == "hash")
        if hashed and not secret:
            named = ", ".join(hashed)
            log.warning("no TRUECOURSE_LOG_SECRET to hash private fields by: the log drops %s", named)
            declared = dict.fromkeys(declared, "drop")
        return cls(declared, secret)

    def merge(self, other: "Masks") -> "Masks":
        """What either hides, as well hidden as the stricter of them hides it."""
        dropped = {name: mark for masks in (self, other) for name, mark in masks.marks.items() if mark == "drop"}
        return Masks({**self.marks, **other.marks, **dropped}, self.secret)

    def apply(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """The log's entry with every private value hashed or gone, wherever in it the value is told."""
        if not self.marks:
            return entry
        return {
            **entry,
            "requests": [self._values(request) for request in entry["requests"]],
            "features": {name: self._told(name, told) for name, told in self._kept(entry["features"])},
            "answers": [self._answer(answer) for answer in entry["answers"]],
        }

    def _told(self, name: str, told: str | list[Any]) -> str | list[Any]:
        """Values of a feature; if it is its kind, the requests hold them."""
        return told if isinstance(told, str) or name not in self.marks else [self._hash(name, value) for value in told]

    def _answer(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A contribution may tell the value as well."""
        if answer.get("contributions") is None:
            return answer
        kept = [part for part in answer["contributions"] if part["feature"] not in self.marks]
        return {**answer, "contributions": kept}

    def _kept(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in values.items() if self.marks.get(name) != "drop")

    def _values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._kept(values)
        return {name: self._hash(name, value) if name in self.marks else value for name, value in kept}

    def _hash(self, name: str, value: Any) -> str | None:
        """Equal values of a field are equal here, and those of two fields are not."""
        if value is None:
            return None
        message = canonical_json([name, value])
        return HASHED + hmac.new(self.secret, message, hashlib.sha256).hexdigest()


def private_names(problem: Problem) -> dict[str, Privacy]:
    """Request fields and features with a mark. A feature computed from a private request field is dropped unless it has
    a mark of its own: it may tell what the field hides."""
    marks: dict[str, Privacy] = {}
    declared = problem.request_features
    fields = problem.request_fields
    if declared is not None and any(name in fields and fields[name].private for name in declared.inputs):
        marks |= dict.fromkeys(declared.features, "drop")
    marked = {name: column.private for name, column in (fields | problem.features).items() if column.private}
    return marks | marked
