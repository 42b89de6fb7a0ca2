"""Every error Truecourse raises on purpose. The tree:

TruecourseError
├── SettingsError          where we run is described wrongly
├── FaultsError            something written down is wrong; carries every fault at once
│   ├── ProblemError       what we predict is described wrongly
│   ├── DeploymentError    where and how a model is deployed is described wrongly
│   └── ReplayError        a replay, or a fault to plant in it, is described wrongly
├── SourceError            a source cannot be read
├── ValidationFailed       data broke a critical expectation
├── CheckBroken            a check of monitoring broke, so that nobody watches there
├── StorageError           object storage or a table cannot be reached
│   ├── NotFound           no such object, table or version
│   ├── AlreadyExists      create-if-absent lost
│   └── AccessDenied       bad or missing credentials
├── FeatureError           a feature view or the feature store
├── IntegrityError         bytes are not the bytes that were recorded
├── ModelError             training, registry, packaging
│   └── GateFailed         a model may not be promoted
├── RequestError           a prediction request breaks the contract
├── PlatformError          a server or process of ours does not come up, or a port is taken
│   └── MirrorError        MLflow, which mirrors our record, cannot be read or written
└── DeliveryFailed         an alert did not reach its receiver
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class TruecourseError(Exception):
    """What was wrong, where, and what to do about it."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f"\n  → {self.hint}" if self.hint else "")

    # Prefect carries exceptions between processes by pickle, which would drop keyword arguments.
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
    """One fault of a specification: its place, what is wrong, and its hint."""

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


class FeatureError(TruecourseError):
    pass


class IntegrityError(TruecourseError):
    pass


class ModelError(TruecourseError):
    pass


class GateFailed(ModelError):
    """`gates`: every verdict, as gates.judge() gives them."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", gates: Iterable[Mapping[str, Any]] = ()) -> None:
        self.gates = tuple(gates)
        super().__init__(what, where=where, hint=hint)


@dataclass(frozen=True)
class RowFault:
    """One fault of a row that was sent for prediction: the row's place from 0, its field (None for the whole row)."""

    row: int
    field: str | None
    problem: str


class RequestError(TruecourseError):
    """`status` is the HTTP status to answer with; `faults` the first of `count` faults."""

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
    """`code`: MLflow's own name of the error, "RESOURCE_DOES_NOT_EXIST"; empty where it did not answer at all."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = "") -> None:
        self.code = code
        super().__init__(what, where=where, hint=hint)


class DeliveryFailed(TruecourseError):
    pass
