"""What steps hand each other: small, frozen, JSON-able references. Never frames, never paths."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def aware_utc(moment: datetime) -> datetime:
    """A moment in UTC; one with no zone is UTC already."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


UtcTime = Annotated[datetime, AfterValidator(aware_utc)]


class Reference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactRef(Reference):
    """An object in storage and the SHA-256 of its bytes."""

    key: str
    sha256: str
    bytes: int


class TableVersion(Reference):
    """One version of a Delta table. `name` is its path below the storage root: `tables/<problem>/clean/<table>`."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class FileScores(Reference):
    """What became of a file's rows: `scored` of them are in the predictions, `rejected` ones in a readable file too."""

    predictions: TableVersion
    scored: int
    rejected: int
    rejected_file: str | None = None


class Snapshot(Reference):
    """An immutable training frame, `snapshots/<problem>/<sha256>/`, named by the SHA-256 of its Parquet bytes."""

    problem: str
    sha256: str
    rows: int

    @property
    def frame_key(self) -> str:
        return f"snapshots/{self.problem}/{self.sha256}/frame.parquet"

    @property
    def manifest_key(self) -> str:
        return f"snapshots/{self.problem}/{self.sha256}/manifest.json"


class TrainedRun(Reference):
    """An MLflow run that holds a trained model, and the SHA-256 of that model's UBJSON."""

    problem: str
    run_id: str
    snapshot: Snapshot
    model_sha256: str


class ModelVersion(Reference):
    """A version in the MLflow registry."""

    problem: str
    version: int
    run_id: str
    model_sha256: str


class Package(Reference):
    """A packaged version: its Bento, the digest of every file that went into it, and that of the files that are not
    the model's own: our code and the locked environment. Where these are equal, one process can serve either."""

    version: ModelVersion
    bento: ArtifactRef
    inputs: str
    code: str


class Entry(Reference):
    """An entry of a ledger: its number from 1, what was done, why, by whom and when (UTC).

    `follows`: the `sha256` of the entry before it, where that was there still; `sha256`: of all the rest of this one.
    The ledger gives both."""

    number: int
    action: str
    reason: str
    author: str
    at: datetime
    follows: str = ""
    sha256: str = ""


class Aliases(Entry):
    """Who is in office. The challenger may see traffic: as a shadow it is scored and logged but does not answer; of
    `share` (0 to 1) of all requests it is the one to answer."""

    champion: ModelVersion | None = None
    challenger: ModelVersion | None = None
    shadow: bool = False
    share: float = Field(0.0, ge=0, le=1)


class Deployment(Entry):
    """A model version put to work in an environment, or taken out of it. `config_sha256` is of the deployment
    configuration, `previous` the version that was there before; `detail` says what was found."""

    environment: str
    target: str
    version: ModelVersion
    bento: ArtifactRef
    config_sha256: str
    previous: ModelVersion | None = None
    outcome: Literal["began", "deployed", "rolled back", "stopped"]
    detail: str = ""


class Window(Reference):
    """A span of time, UTC: `start` <= t < `end`; None is open."""

    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def all(cls) -> Self:
        return cls()


def naive_utc(moment: datetime | None) -> datetime | None:
    """A moment as frames carry it: UTC, with no zone. One with no zone is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment
