"""Every error Truecourse raises on purpose. The tree:

TruecourseError
├── SettingsError          invalid settings or environment
├── FaultsError            an invalid definition; carries all its faults
│   ├── ProblemError       invalid problem definition
│   │   └── AreaError      invalid definition of a feature area
│   ├── DeploymentError    invalid deployment configuration
│   └── ReplayError        invalid definition of a replay, or of a fault to inject in it
├── SourceError            a source cannot be read
├── ValidationFailed       data failed a critical expectation
├── CheckBroken            a monitoring check raised an error, so its result is unknown
├── StorageError           object storage or a table cannot be reached
│   ├── NotFound           no such object, table or version
│   ├── AlreadyExists      create-if-absent found an object
│   ├── AccessDenied       bad or missing credentials
│   ├── ConflictError      another process changed a table at the same time
│   └── FormatError        a newer Truecourse wrote it
├── FeatureError           invalid feature SQL or feature store failure
├── IntegrityError         bytes differ from the recorded SHA-256
├── ModelError             training, registry, packaging
│   └── GateFailed         a model may not be promoted
├── RequestError           a prediction request violates the contract
├── PlatformError          a server or process does not start or answer, or a port is in use
│   └── MirrorError        the MLflow mirror of the registry cannot be read or written
└── DeliveryFailed         a notification or a lineage event was not delivered
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class TruecourseError(Exception):
    """What went wrong (`what`), where (`where`), and what to do about it (`hint`)."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f"\n  → {self.hint}" if self.hint else "")

    # Prefect pickles exceptions between processes; the default pickling drops keyword arguments.
    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[TruecourseError], state: dict[str, object]) -> TruecourseError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (state["what"], state["where"], state["hint"])
    return error


class SettingsError(TruecourseError):
    pass


@dataclass(frozen=True)
class Fault:
    """One fault of a definition: its place, what is wrong, and a hint."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n    → {self.hint}" if self.hint else "")


class FaultsError(TruecourseError):
    subject = ""

    def __init__(self, name: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__(f"{count}\n{lines}", where=f"{self.subject} {name}")


class ProblemError(FaultsError):
    subject = "problem"


class AreaError(ProblemError):
    subject = "feature area"


class DeploymentError(FaultsError):
    subject = "deployment"


class ReplayError(FaultsError):
    subject = "replay of"


class SourceError(TruecourseError):
    pass


class ValidationFailed(TruecourseError):
    pass


class CheckBroken(TruecourseError):
    pass


class StorageError(TruecourseError):
    pass


class NotFound(StorageError):
    pass


class AlreadyExists(StorageError):
    pass


class AccessDenied(StorageError):
    pass


class ConflictError(StorageError):
    pass


class FormatError(StorageError):
    pass


class FeatureError(TruecourseError):
    pass


class IntegrityError(TruecourseError):
    pass


class ModelError(TruecourseError):
    pass


class GateFailed(ModelError):
    """`gates`: the result of every gate."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", gates: Iterable[Mapping[str, Any]] = ()) -> None:
        self.gates = tuple(gates)
        super().__init__(what, where=where, hint=hint)


@dataclass(frozen=True)
class RowFault:
    """One fault of a row in a prediction request: the row's number from 0, and its field (None: the whole row)."""

    row: int
    field: str | None
    problem: str


class RequestError(TruecourseError):
    """`status`: the HTTP status of the response. `faults`: the first of `count` faults."""

    def __init__(
        self,
        what: str,
        *,
        status: int,
        faults: Iterable[RowFault] = (),
        count: int = 0,
        where: str = "",
        hint: str = "",
    ) -> None:
        self.status = status
        self.faults = tuple(faults)
        self.count = count
        super().__init__(what, where=where, hint=hint)


class PlatformError(TruecourseError):
    pass


class MirrorError(PlatformError):
    """`code`: MLflow's error code, such as "RESOURCE_DOES_NOT_EXIST"; empty if MLflow did not answer."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = "") -> None:
        self.code = code
        super().__init__(what, where=where, hint=hint)


class DeliveryFailed(TruecourseError):
    """`status`: that of the receiver's answer in HTTP; 0 if there was none."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", status: int = 0) -> None:
        self.status = status
        super().__init__(what, where=where, hint=hint)
