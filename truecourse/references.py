"""References that steps pass to each other: small, frozen, JSON-serializable. They hold no frames and no paths."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from truecourse.stored_format import FORMAT, Action, Format


def aware_utc(moment: datetime) -> datetime:
    """Convert a time to UTC. A time without zone is UTC."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


UtcTime = Annotated[datetime, AfterValidator(aware_utc)]


class Reference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredRecord(Reference):
    """A record that is stored and read again, with the number of its format."""

    format: Format = FORMAT


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
    """Result of scoring a file: `scored` rows are in `predictions`; `rejected` rows are also in `rejected_file`."""

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


class Package(StoredRecord):
    """A packaged version and its Bento. `inputs`: digest of every file in the package. `code`: digest of our code and
    the locked environment; versions with equal `code` can be served by one process."""

    version: ModelVersion
    bento: ArtifactRef
    inputs: str
    code: str


class Entry(StoredRecord):
    """An entry of a ledger: its number from 1, the action, the reason, the author and the time (UTC).

    `follows`: the `sha256` of the previous entry; empty if that was gone. `sha256`: of the rest of this entry. The
    ledger sets both."""

    number: int
    action: Action
    reason: str
    author: str
    at: datetime
    follows: str = ""
    sha256: str = ""


class Aliases(Entry):
    """Champion and challenger. `shadow`: the challenger scores requests; its predictions are logged, not returned.
    `share`: the challenger's traffic weight (0 to 1).

    The number of the format is read but not written yet: servers of Bentos with the code of format 1 read the entries,
    and accept no other fields."""

    format: Format = Field(FORMAT, exclude=True)
    champion: ModelVersion | None = None
    challenger: ModelVersion | None = None
    shadow: bool = False
    share: float = Field(0.0, ge=0, le=1)


class Deployment(Entry):
    """A model version deployed to an environment, or removed from it. `config_sha256`: of the deployment configuration.
    `previous`: the version deployed before. `detail`: the result, as a sentence."""

    environment: str
    target: str
    version: ModelVersion
    bento: ArtifactRef
    config_sha256: str
    previous: ModelVersion | None = None
    outcome: Literal["began", "deployed", "rolled back", "stopped"]
    detail: str = ""


class Window(Reference):
    """A time range, UTC: `start` <= t < `end`; None is unbounded."""

    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def all(cls) -> Self:
        return cls()


def naive_utc(moment: datetime | None) -> datetime | None:
    """Convert a time to UTC without zone, as in frames. A time without zone is UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment
