"""What a spool takes, what bounds it, and what it tells of itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Recordable(Protocol):
    """Answers that the log keeps; as many as `answers`."""

    @property
    def answers(self) -> Sequence[Any]: ...

    def entries(self) -> Iterable[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Limits:
    """`sync`: seconds between syncs. `age`, `size`: seconds and bytes after which a segment is sealed. `memory`:
    predictions that may wait. `disk`: bytes of all segments that may wait to be shipped."""

    sync: float = 0.2
    age: float = 2.0
    size: int = 8 << 20
    memory: int = 50_000
    disk: int = 1 << 30


@dataclass(frozen=True)
class SpoolStatus:
    """Predictions: `written` and synced, `waiting` in memory, `dropped` for want of room. `unshipped_bytes` of all
    workers' segments. `lag_seconds`: how old the oldest prediction is that has not been shipped; 0 if all were.
    `error`: why writing fails, `shipping_error`: why shipping does; empty if they do not."""

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
