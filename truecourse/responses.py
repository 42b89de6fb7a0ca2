"""The endpoint's JSON responses, as pydantic models: predictions, explanations, the served model, errors and health.

The OpenAPI document (truecourse/serving/openapi.py) is derived from these models, and the client returns them. The
endpoint builds errors and health from them. It encodes predictions and the model from plain dicts, which takes a
thirtieth of the time; tests/unit/test_responses.py checks that what it sends is what the models define.
"""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from truecourse.errors import RowFault
from truecourse.stored_format import FORMER_FIELDS


class Response(BaseModel):
    """A part of a response. Unknown members are ignored, so that a client can read those of a later endpoint.

    A member with a default may be absent from the JSON; None as a default stands for an absent member, not for null."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    def to_document(self) -> dict[str, Any]:
        """Return the members that were set, as values that JSON can represent."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_json(self) -> bytes:
        """Encode the members that were set."""
        return self.model_dump_json(exclude_unset=True).encode()


class ModelIdentity(Response):
    """A model version, and the SHA-256 of its model file."""

    version: int
    sha256: str


class Prediction(Response):
    """The prediction of one row."""

    prediction_id: str = Field(description="id in the prediction log")
    id: int | str | None = Field(None, description="as sent")
    decision_time: str | None = Field(None, json_schema_extra={"format": "date-time"})
    score: float | None = Field(None, description="the probability of the second class, or the value of a regression")
    scores: dict[str, float] = Field({}, description="probabilities by class, of a multiclass model")
    prediction: str | float = Field(description="the class by the model's decision rule, or the value of a regression")
    lower: float | None = Field(None, description="lower bound of the prediction, of a regression with intervals")
    upper: float | None = Field(None, description="upper bound of the prediction, of a regression with intervals")
    missing: tuple[str, ...] = Field(description="features without a value, or without a fresh one")
    unknown: tuple[str, ...] = Field(description="features with an unknown category")
    warning: str = Field("", description="why most features are missing, if they are")
    unavailable: tuple[str, ...] = Field((), description="feature views that could not be read from the online store")
    model: ModelIdentity | None = Field(None, description="the model of this prediction, if it is not the one above")


class Contribution(Response):
    """A feature's value, and its SHAP contribution to the margin."""

    feature: str
    value: str | float | int | bool | None
    contribution: float


class Explanation(Prediction):
    """The prediction of one row, and its explanation. `base` and contributions sum to `margin`."""

    base: float = Field(description="the margin of the average training row")
    margin: float = Field(description="the score before the link function; for several classes, the predicted one's")
    contributions: tuple[Contribution, ...] = Field(description="exact SHAP values, largest first")


class PredictionResponse(Response):
    """Predictions in the order of the rows, and the model that made them."""

    model: ModelIdentity
    predictions: tuple[Prediction, ...]


class ExplanationResponse(PredictionResponse):
    """Explained predictions in the order of the rows, and the model that made them."""

    predictions: tuple[Explanation, ...]


class FeatureSource(Response):
    """Where the model gets the value of a feature from."""

    kind: str = Field(description="`category`, `integer`, `float` or `boolean`")
    source: str = Field(description="`request`, `request function`, or `view NAME` of the online store")
    ttl: float | None = Field(description="maximum age of a view's value in seconds, 0: unlimited; null without a view")


class PackagedEnvironment(Response):
    """The environment that the model was packaged for."""

    python: str
    requirements_sha256: str = Field(description="SHA-256 of the locked requirements")


class ServingStatus(Response):
    """The traffic split of the worker that answered. A worker that serves one fixed version leaves out `following`,
    `refused` and `storage`."""

    champion: ModelIdentity
    challenger: ModelIdentity | None
    shadow: bool = Field(description="whether the challenger scores the champion's requests, without answering them")
    share: float = Field(description="share of the entities that the challenger answers")
    aliases: int = Field(description="number of the entry of the alias history; 0 if none was read")
    counts: dict[str, int] = Field(description="failures of a challenger or of logging, and rows of a shadow model")
    following: bool = Field(False, description="whether the worker switches to each new champion and challenger")
    refused: dict[str, str] = Field({}, description="by role, why the version of the alias is not served")
    storage: str = Field("", description="`reachable`, or why the aliases cannot be read")


class ModelResponse(Response):
    """The champion that the endpoint serves, where it comes from, and the traffic split."""

    problem: str
    kind: Literal["binary", "multiclass", "regression"]
    version: int
    run_id: str = Field(description="the training run in MLflow")
    model_sha256: str
    snapshot: str | None = Field(description="SHA-256 of the training snapshot")
    problem_digest: str = Field(description="SHA-256 of the problem's definition")
    form: str = Field(description="the form of the model, in words")
    features: dict[str, FeatureSource] = Field(description="in the order of the model's inputs")
    environment: PackagedEnvironment
    script: str = Field(description="the scoring script of the Bento")
    serving: ServingStatus


class PushResponse(Response):
    """What became of pushed rows. They are stored; those that are not counted as quarantined are valid."""

    id: str = Field(description="of the push: what is sent again with it counts once")
    table: str = Field(description="the table that has the rows, as `area.table`")
    delivery: int = Field(description="number of the delivery within the table")
    sha256: str = Field(description="SHA-256 of the rows as JSON lines, as they are stored")
    rows: int
    inserted: int
    corrected: int = Field(description="rows that replace an earlier row of their key")
    unchanged: int = Field(description="rows that are already in the table, or older than the table's row of their key")
    deleted: int = Field(description="rows that delete the row of their key")
    quarantined: int = Field(description="invalid rows, which count for nothing; `faults` lists them")
    repeated: bool = Field(description="whether the same push was recorded before")
    faults: tuple[RowFault, ...] = Field(description="the first faults of quarantined rows")
    fault_count: int = Field(description="the number of all faults")
    loaded: dict[str, int] = Field(description="by view, the number of keys that were written to the online store")
    waiting: dict[str, str] = Field(description="by view, why it was not updated; its next materialization does")


class ErrorResponse(Response):
    """Why a request failed, and what to do about it."""

    error: str
    hint: str = Field("", validation_alias=AliasChoices("hint", FORMER_FIELDS["hint"]))
    faults: tuple[RowFault, ...] = Field((), description="the first faults of the rows")
    fault_count: int = Field(0, description="the number of all faults")


class ServedVersion(Response):
    """The champion that the endpoint serves; null while no model is loaded."""

    problem: str | None
    version: int | None
    model_sha256: str | None


class DependencyStatus(Response):
    """The last check of a dependency: whether it answered, after how many seconds, and the type of its error."""

    answers: bool
    seconds: float
    error: str | None


class CertificateStatus(Response):
    """The TLS certificate: whether it is valid and the newest, when it expires, and why a newer one is not used."""

    answers: bool
    expires: str
    error: str | None


class LogStatus(Response):
    """The prediction log of a worker. Counts are of predictions."""

    written: int = Field(description="written and synced")
    waiting: int = Field(description="in memory")
    dropped: int = Field(description="lost for lack of room")
    unshipped_bytes: int = Field(description="size of all workers' segments that are not in the log's table yet")
    lag_seconds: float = Field(description="age of the oldest unshipped prediction; 0 if all are shipped")
    error: str = Field(description="why writing fails; empty if it works")
    shipping_error: str = Field(description="why shipping fails; empty if it works")

    @property
    def healthy(self) -> bool:
        return not (self.error or self.shipping_error)


class HealthResponse(Response):
    """The health of a worker of the endpoint.

    `status`: `ok`; `degraded` if a dependency does not answer, or the log is not written, while predictions are still
    possible; `failing` if they are not."""

    status: Literal["ok", "degraded", "failing"]
    model: ServedVersion
    storage: DependencyStatus | None = None
    keys: DependencyStatus | None = Field(None, description="the API keys, if they are required")
    online_store: DependencyStatus | None = Field(None, description="the online store, if the model reads one")
    certificate: CertificateStatus | None = Field(None, description="the TLS certificate, if the endpoint has one")
    log: LogStatus | None = Field(description="the prediction log; null if it is disabled")
    worker: int = Field(description="process id of the worker that answered")
    uptime_seconds: float
