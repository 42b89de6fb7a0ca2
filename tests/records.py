"""Records to log, as many and as large as a test wants."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

AT = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)


def record(id: str, **changes: Any) -> dict[str, Any]:
    return {
        "prediction_id": id,
        "at": AT,
        "problem": "deliveries",
        "model_version": 3,
        "model_sha256": "ab" * 32,
        "role": "champion",
        "id": 7,
        "decision_time": "2024-05-01T12:30:00.000000Z",
        "request": {"courier": "c03", "distance": 4.2},
        "features": {"distance": 4.2, "hour": 12},
        "event_times": {"hour": None},
        "score": 0.25,
        "scores": None,
        "prediction": "0",
        "base": None,
        "contributions": None,
    } | changes


@dataclass(frozen=True)
class Answers:
    """Stands for the answers to one request."""

    ids: tuple[str, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.ids

    def records(self) -> Iterator[dict[str, Any]]:
        return (record(id) for id in self.ids)
