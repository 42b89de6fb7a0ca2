"""Input, limits and status of a spool."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Recordable(Protocol):
    """Results for the log: `answers`, and entries that cover them all."""

    @property
    def answers(self) -> Sequence[Any]: ...

    def entries(self) -> Iterable[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Limits:
    """`sync`: seconds between syncs. `age`, `size`: seconds and bytes after which a segment is sealed. `memory`: most
    predictions that wait. `disk`: most bytes of unshipped segments of all workers."""

    sync: float = 0.2
    age: float = 2.0
    size: int = 8 << 20
    memory: int = 50_000
    disk: int = 1 << 30


@dataclass(frozen=True)
class SpoolStatus:
    """Predictions: `written` and synced, `waiting` in memory, `dropped` for lack of room. `unshipped_bytes`: of all
    workers' segments. `lag_seconds`: age of the oldest unshipped prediction; 0 if all are shipped. `error`: why
    writing fails; `shipping_error`: why shipping fails; empty if they work."""

    written: int = 0
    waiting: int = 0
    dropped: int = 0
    unshipped_bytes: int = 0
    lag_seconds: float = 0.0
    error: str = ""
    shipping_error: str = ""

    @property
    def healthy(self) -> bool:
        return not (self.error or self.shipping_error)
