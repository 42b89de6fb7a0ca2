"""Answers with all that they rest on, held as they came: what the log keeps is made later."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from truecourse.arrays import Values
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.prediction import original_values
from truecourse.serving.rows import Rows

Role = Literal["champion", "challenger", "shadow"]
PREDICTION_ID = "prediction_id"
ALL = slice(None)
ENTRY = 256
"""Answers of one request that the log keeps together: more would keep other threads waiting while it is written."""


@dataclass(frozen=True)
class Identity:
    """Which model answered."""

    problem: str
    version: int
    sha256: str

    def to_document(self) -> dict[str, Any]:
        return {"version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class PredictionResult:
    """One model's answers to the rows of one request, or of several that are answered together.

    `at`: when the request came, or all of them had, UTC. `columns`: the features, n values each; `events`: for each
    feature that was looked up, n event times as OnlineFeatures has them. `answers`: as the client gets them.
    A shadow's have the ids of the answers that they stand beside. `seconds`: of reading features and scoring, for all
    rows together.
    """

    identity: Identity
    role: Role
    at: datetime
    vocabulary: Vocabulary
    rows: Rows
    columns: Mapping[str, Values]
    events: Mapping[str, Sequence[int]]
    answers: list[dict[str, Any]]
    seconds: float

    def entries(self) -> Iterator[dict[str, Any]]:
        """What the log keeps of them (truecourse/serving/prediction_log.py): who answered what, to what, from which
        features known since when. To be called off the answer's path."""
        for some in _parts(len(self.answers)):
            events = self.events if some == ALL else {name: times[some] for name, times in self.events.items()}
            yield {
                **_head(self.identity, self.role, self.at, self.rows, self.answers, some),
                "features": self._features(some),
                "event_times": events,
                "seconds": self.seconds,
                "batch": len(self.answers),
                "error": None,
            }

    def _features(self, some: slice) -> Mapping[str, Any]:
        """Of each feature its values; where the request holds them, its kind, which tells how they are read."""
        sent, kinds = self.rows.values, self.vocabulary.kinds
        if self.columns is sent:
            return kinds
        features: dict[str, Any] = {}
        for name, kind in kinds.items():
            values = self.columns[name]
            features[name] = (
                kind if values is sent.get(name) else original_values(kind, values if some == ALL else values[some])
            )
        return features


@dataclass(frozen=True)
class ChallengerFailure:
    """A challenger that raised `error` (the kind of exception alone: a message may tell what was sent) on rows that the
    champion answered, with `answers`. To be logged like a shadow that has nothing to say."""

    identity: Identity
    at: datetime
    rows: Rows
    answers: Sequence[Mapping[str, Any]]
    error: str

    def entries(self) -> Iterator[dict[str, Any]]:
        unscored = {"score": None, "scores": None, "prediction": None, "base": None, "contributions": None}
        answers = [{**answer, **unscored} for answer in self.answers]
        rest: dict[str, Any] = {"features": {}, "event_times": {}, "seconds": None}
        rest |= {"batch": len(answers), "error": self.error}
        for some in _parts(len(answers)):
            yield {**_head(self.identity, "shadow", self.at, self.rows, answers, some), **rest}


def _parts(count: int) -> Iterator[slice]:
    """The answers of one request, ENTRY at a time."""
    if count <= ENTRY:
        return iter((ALL,))
    return (slice(start, start + ENTRY) for start in range(0, count, ENTRY))


def _head(
    identity: Identity, role: Role, at: datetime, rows: Rows, answers: Sequence[Mapping[str, Any]], some: slice
) -> dict[str, Any]:
    """What an entry of some of the rows begins with: who was asked what, and when, and answered what."""
    return {
        "at": at,
        "problem": identity.problem,
        "model_version": identity.version,
        "model_sha256": identity.sha256,
        "role": role,
        "requests": rows.given[some],
        "answers": answers[some],
    }
