"""Answers with all that they rest on, held as the arrays they came from: making records of them is for later."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from truecourse.encoding import Array, Vocabulary
from truecourse.prediction import value
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
    the ids of the answers that they stand beside.
    """

    identity: Identity
    role: Role
    at: datetime
    vocabulary: Vocabulary
    rows: Rows
    columns: Mapping[str, Array]
    events: Mapping[str, Array]
    answers: list[dict[str, Any]]

    def records(self) -> Iterator[dict[str, Any]]:
        """A record of each answer, all of it JSON but `at`: who answered what, to what, from which features known
        since when. To be called off the answer's path."""
        for i, answer in enumerate(self.answers):
            features = {name: value(self.vocabulary, name, self.columns[name][i]) for name in self.vocabulary.features}
            yield {
                PREDICTION_ID: answer[PREDICTION_ID],
                "at": self.at,
                "problem": self.identity.problem,
                "model_version": self.identity.version,
                "model_sha256": self.identity.sha256,
                "role": self.role,
                "id": self.rows.ids[i],
                "decision_time": answer.get("decision_time"),
                "request": self.rows.given[i],
                "features": features,
                "event_times": {name: _moment(times[i]) for name, times in self.events.items()},
                "score": answer.get("score"),
                "scores": answer.get("scores"),
                "prediction": answer["prediction"],
                "base": answer.get("base"),
                "contributions": answer.get("contributions"),
            }


def _moment(time: Any) -> str | None:
    return None if np.isnat(time) else f"{time}Z"
