"""The deployment configuration: where and how a model version runs; `deployments/<name>.yaml`.

Secrets are given by reference only: the name of a variable that holds the value.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from truecourse.hashing import sha256_json

Target = Literal["process", "batch", "container"]
EnvironmentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Limits(Part):
    requests_per_second: float | None = Field(None, gt=0)
    """Rate limit per API key (without keys: per address), for all workers together; each worker grants its part.
    Requests above it get 429. Unlimited if empty."""
    burst: int | None = Field(None, ge=1)
    """Additional requests allowed at once."""
    queue_seconds: float | None = Field(None, gt=0)
    """Requests that would wait longer than this get 429. The endpoint's setting if empty."""


class Timeouts(Part):
    ready_seconds: float = Field(120, gt=0)
    """A new server that is not ready by then is stopped, and the previous one stays."""
    request_seconds: int | None = Field(None, ge=1, le=3600)
    """Timeout of a request. The endpoint's setting if empty."""
    drain_seconds: float = Field(2, ge=0, le=600)
    """How long a replaced server still answers while it asks its clients to reconnect."""


class Tls(Part):
    certificate: str
    """The path of the certificate (PEM), where the server runs."""
    key: str
    """The path of its private key (PEM)."""


class Authentication(Part):
    kind: Literal["none", "keys"] = "none"
    """`none`: anyone who can connect gets an answer; for loopback. `keys`: requests need an API key."""
    tls: Tls | None = None


class Traffic(Part):
    shadow: bool = False
    """The challenger scores and is logged, but does not answer."""
    share: float = Field(0.0, ge=0, le=1)
    """The share of requests that the challenger answers, by a stable hash of the entity."""


class Log(Part):
    access: bool = False
    """Whether the server logs every request, except probes."""
    predictions: bool = True
    """Whether predictions are recorded in the prediction log."""


class Metrics(Part):
    enabled: bool = True
    """Whether /metrics (Prometheus) is served."""


class Batch(Part):
    cron: str = Field("0 4 * * *", pattern=r"^\S+( \S+){4}$")
    """When the score flow runs: minute, hour, day of month, month, day of week."""
    timezone: str = "UTC"
    explain: bool = False
    """Whether predictions include their contributions."""


class Resources(Part):
    cpu: str = Field("1", pattern=r"^\d+(\.\d+)?m?$")
    """A Kubernetes quantity: 1, 0.5 or 500m."""
    memory: str = Field("1Gi", pattern=r"^\d+(Mi|Gi)$")


class Container(Part):
    image: str = Field("truecourse-endpoint", min_length=1)
    """The image's name without a tag; its tag is the version and the Bento's digest."""
    replicas_min: int = Field(1, ge=1)
    replicas_max: int = Field(4, ge=1)
    cpu_percent: int = Field(70, ge=1, le=100)
    """The CPU utilization that the autoscaler aims for, in percent."""
    resources: Resources = Resources()
    namespace: str = Field("truecourse", pattern=r"^[a-z0-9-]+$")
    secret: str = Field("truecourse", pattern=r"^[a-z0-9.-]+$")
    """The Kubernetes secret whose keys are the variables of `secrets`."""


class DeploymentConfig(Part):
    """Where and how a model version runs in one environment."""

    environment: EnvironmentName
    """The name of the file, without its ending."""
    description: str = ""
    problem: str | None = None
    """A folder of problems/; the settings' default if empty."""
    target: Target
    """`process`: a server on this machine. `batch`: the score flow on a schedule. `container`: files for an image, a
    compose stack and a cluster."""
    host: str = "127.0.0.1"
    """The address that the server listens on."""
    port: int = Field(3000, ge=1, le=65535)
    workers: int = Field(1, ge=1, le=256)
    """Server processes, each with its own copy of the model."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    authentication: Authentication = Authentication()
    cors_origins: list[str] = []
    """Origins whose pages may call the endpoint."""
    traffic: Traffic | None = None
    """The challenger's traffic; unchanged if empty."""
    log: Log = Log()
    metrics: Metrics = Metrics()
    batch: Batch = Batch()
    container: Container = Container()
    settings: dict[str, str | int | float | bool] = {}
    """Settings by name, without TRUECOURSE_; none that holds a secret."""
    secrets: dict[str, Variable] = {}
    """Settings that hold secrets, each with the name of the variable that holds the value."""

    @property
    def digest(self) -> str:
        return sha256_json(self.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration, stored as deployments/schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **DeploymentConfig.model_json_schema()}
