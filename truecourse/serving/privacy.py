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
    """Which values are hashed or dropped, by name of request field or feature."""

    marks: Mapping[str, Privacy]
    secret: bytes

    @classmethod
    def of(cls, problem: Problem, secret: bytes) -> Self:
        """Return the masks that the problem declares.

        Without a secret, hashes could be reversed by hashing all likely values. The fields are then dropped, with a
        warning."""
        declared = private_names(problem)
        hashed = sorted(name for name, mark in declared.items() if mark == "hash")
        if hashed and not secret:
            log.warning("TRUECOURSE_LOG_SECRET is not set: the log drops the private fields %s", ", ".join(hashed))
            declared = dict.fromkeys(declared, "drop")
        return cls(declared, secret)

    def merge(self, other: "Masks") -> "Masks":
        """Combine two sets of masks; for a name in both, the stricter one counts."""
        dropped = {name: mark for masks in (self, other) for name, mark in masks.marks.items() if mark == "drop"}
        return Masks({**self.marks, **other.marks, **dropped}, self.secret)

    def apply(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Hash or drop every private value in a log entry: in requests, features and contributions.

        The name of a dropped feature of a view is kept, with None: the event time of the view's row is its own too."""
        if not self.marks:
            return entry
        return {
            **entry,
            "requests": [self._values(request) for request in entry["requests"]],
            "features": {name: self._feature(name, kept) for name, kept in self._kept(entry["features"])},
            "views": {
                view: [times, {name: self._of_view(name, kept) for name, kept in values.items()}]
                for view, (times, values) in entry["views"].items()
            },
            "answers": [self._answer(answer) for answer in entry["answers"]],
        }

    def _feature(self, name: str, kept: str | list[Any]) -> str | list[Any]:
        """Mask a feature's values. A string is its kind: the requests then hold the values."""
        if isinstance(kept, str) or name not in self.marks:
            return kept
        return [self.hash_value(name, value) for value in kept]

    def _of_view(self, name: str, kept: list[Any] | None) -> list[Any] | str | None:
        return None if kept is None or self.marks.get(name) == "drop" else self._feature(name, kept)

    def _answer(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Drop contributions of private features, which include the value."""
        if answer.get("contributions") is None:
            return answer
        kept = [part for part in answer["contributions"] if part["feature"] not in self.marks]
        return {**answer, "contributions": kept}

    def _kept(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in values.items() if self.marks.get(name) != "drop")

    def _values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._kept(values)
        return {name: self.hash_value(name, value) if name in self.marks else value for name, value in kept}

    def hash_value(self, name: str, value: Any) -> str | None:
        """Hash a value with its field's name, so that equal values of different fields differ."""
        if value is None:
            return None
        message = canonical_json([name, value])
        return HASHED + hmac.new(self.secret, message, hashlib.sha256).hexdigest()


def private_names(problem: Problem) -> dict[str, Privacy]:
    """Return the private request fields and features, with their marks.

    A feature computed from a private request field is dropped unless it has its own mark: it could reveal the field."""
    declared, fields = problem.request_features, problem.request_fields
    computed = [(name, (*feature.inputs,)) for name, feature in problem.time_features.items()]
    computed += [(name, (*declared.inputs,)) for name in declared.features] if declared is not None else []
    marks: dict[str, Privacy] = {
        name: "drop" for name, inputs in computed if any(each in fields and fields[each].private for each in inputs)
    }
    marked = {name: column.private for name, column in (fields | problem.features).items() if column.private}
    return marks | marked
