"""Results of scoring a request, with their inputs; log entries are built from them later, off the request path."""

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
"""Most answers of one log entry: encoding more at once would block other threads."""


@dataclass(frozen=True)
class Identity:
    """Problem, version and digest of the model that answered."""

    problem: str
    version: int
    sha256: str

    def to_document(self) -> dict[str, Any]:
        return {"version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class PredictionResult:
    """One model's answers to the rows of one request, or of several requests that are answered together.

    `at`: when the request came, or the last of several, UTC. `columns`: the features, n values each. `events`: for each
    view of the online store, n event times as in OnlineFeatures. `views`: the features of each view. `answers`: as in
    the response. A shadow's answers have the ids of the champion's. `seconds`: time of reading features and scoring,
    for all rows together.
    """

    identity: Identity
    role: Role
    at: datetime
    vocabulary: Vocabulary
    rows: Rows
    columns: Mapping[str, Values]
    events: Mapping[str, Sequence[int]]
    views: Mapping[str, Sequence[str]]
    answers: list[dict[str, Any]]
    seconds: float

    def entries(self) -> Iterator[dict[str, Any]]:
        """Build the log entries of truecourse/serving/prediction_log.py.

        Called after the reply is sent."""
        for some in _parts(len(self.answers)):
            features = self._features(some)
            views = {view: [times[some], self._of_view(view, features)] for view, times in self.events.items()}
            yield {
                **_head(self.identity, self.role, self.at, self.rows, self.answers, some),
                "features": features,
                "views": views,
                "seconds": self.seconds,
                "batch": len(self.answers),
                "error": None,
            }

    def _of_view(self, view: str, features: dict[str, Any]) -> dict[str, Any]:
        """Move the values of a view's features out of `features`."""
        return {name: features.pop(name, None) for name in self.views[view]}

    def _features(self, some: slice) -> dict[str, Any]:
        """The values of each feature; its kind alone where the request holds the values."""
        sent, kinds = self.rows.values, self.vocabulary.kinds
        if self.columns is sent:
            return dict(kinds)
        features: dict[str, Any] = {}
        for name, kind in kinds.items():
            values = self.columns[name]
            features[name] = (
                kind if values is sent.get(name) else original_values(kind, values if some == ALL else values[some])
            )
        return features


@dataclass(frozen=True)
class ChallengerFailure:
    """A challenger's failure on rows that the champion answered with `answers`; logged as a shadow without scores.

    `error`: the kind of the exception alone, since its message may hold values of the request."""

    identity: Identity
    at: datetime
    rows: Rows
    answers: Sequence[Mapping[str, Any]]
    error: str

    def entries(self) -> Iterator[dict[str, Any]]:
        names = ("score", "scores", "prediction", "lower", "upper", "base", "contributions")
        unscored = dict.fromkeys(names)
        answers = [{**answer, **unscored} for answer in self.answers]
        rest: dict[str, Any] = {"features": {}, "views": {}, "seconds": None}
        rest |= {"batch": len(answers), "error": self.error}
        for some in _parts(len(answers)):
            yield {**_head(self.identity, "shadow", self.at, self.rows, answers, some), **rest}


def _parts(count: int) -> Iterator[slice]:
    """Slices over the answers of one request, of at most ENTRY each."""
    if count <= ENTRY:
        return iter((ALL,))
    return (slice(start, start + ENTRY) for start in range(0, count, ENTRY))


def _head(
    identity: Identity, role: Role, at: datetime, rows: Rows, answers: Sequence[Mapping[str, Any]], some: slice
) -> dict[str, Any]:
    """The common fields of a log entry: time, model, role, requests and answers."""
    return {
        "at": at,
        "problem": identity.problem,
        "model_version": identity.version,
        "model_sha256": identity.sha256,
        "role": role,
        "requests": rows.given[some],
        "answers": answers[some],
    }
