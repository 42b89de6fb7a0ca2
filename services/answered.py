"""Answers with all that they rest on, held as the arrays they came from: making records of them is for later."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from truecourse.encoding import Array, Vocabulary
from truecourse.prediction import told
from truecourse.request import Rows

Role = Literal["champion", "challenger", "shadow"]
PREDICTION_ID = "prediction_id"


@dataclass(frozen=True)
class Identity:
    """Which model answered."""

    problem: str
    version: int
    sha256: str

    @property
    def told(self) -> dict[str, Any]:
        return {"version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class Answered:
    """One model's answers to the rows of one request.

    `at`: when the request came, UTC. `columns`: the features, n values each; `events`: for each feature that was
    looked up, (n,) datetime64[us] UTC, NaT where there was none. `answers`: as the client gets them. A shadow's have
    the ids of the answers that they stand beside. `seconds`: of reading features and scoring, for all rows together.
    """

    identity: Identity
    role: Role
    at: datetime
    vocabulary: Vocabulary
    rows: Rows
    columns: Mapping[str, Array]
    events: Mapping[str, Array]
    answers: list[dict[str, Any]]
    seconds: float

    def records(self) -> Iterator[dict[str, Any]]:
        """A record of each answer, all of it JSON but `at`: who answered what, to what, from which features known
        since when. To be called off the answer's path."""
        names = self.vocabulary.features
        features = _by_row(names, (told(kind, self.columns[name]) for name, kind in self.vocabulary.kinds.items()))
        event_times = _by_row(self.events, map(_moments, self.events.values()))
        for i, answer in enumerate(self.answers):
            yield {
                **_head(self.identity, self.role, self.at, self.rows, i, answer),
                "features": next(features),
                "event_times": next(event_times, {}),
                "score": answer.get("score"),
                "scores": answer.get("scores"),
                "prediction": answer["prediction"],
                "base": answer.get("base"),
                "contributions": answer.get("contributions"),
                "seconds": self.seconds,
                "batch": len(self.answers),
                "error": None,
            }


@dataclass(frozen=True)
class Failed:
    """A challenger that raised `error` (the kind of exception alone: a message may tell what was sent) on rows that the
    champion answered, with `answers`. To be recorded like a shadow that has nothing to say."""

    identity: Identity
    at: datetime
    rows: Rows
    answers: Sequence[Mapping[str, Any]]
    error: str

    def records(self) -> Iterator[dict[str, Any]]:
        nothing = dict.fromkeys(("score", "scores", "prediction", "base", "contributions", "seconds"))
        rest = {"features": {}, "event_times": {}, "batch": len(self.answers), "error": self.error}
        for i, answer in enumerate(self.answers):
            yield {**_head(self.identity, "shadow", self.at, self.rows, i, answer), **nothing, **rest}


def _head(
    identity: Identity, role: Role, at: datetime, rows: Rows, i: int, answer: Mapping[str, Any]
) -> dict[str, Any]:
    """What a record of row `i` begins with: who was asked what, and when."""
    return {
        PREDICTION_ID: answer[PREDICTION_ID],
        "at": at,
        "problem": identity.problem,
        "model_version": identity.version,
        "model_sha256": identity.sha256,
        "role": role,
        "id": rows.ids[i],
        "decision_time": answer.get("decision_time"),
        "request": rows.given[i],
    }


def _by_row(names: Iterable[str], columns: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    names = list(names)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _moments(times: Array) -> list[str | None]:
    return [None if time == "NaT" else f"{time}Z" for time in np.datetime_as_string(times).tolist()]
