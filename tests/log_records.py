"""Records of the prediction log, and the entries that hold them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from truecourse.serving.prediction_log import OF_ANSWER, OF_ENTRY, encode_entry, entry_records, feature_event_times

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
        "lower": None,
        "upper": None,
        "base": None,
        "contributions": None,
        "seconds": 0.002,
        "batch": 1,
        "error": None,
    } | changes


def entry(*records: dict[str, Any]) -> dict[str, Any]:
    """The log entry of one request's answers, as workers write it; all event times are unknown."""
    first = records[0]
    return {
        **{name: first[name] for name in OF_ENTRY},
        "requests": [record["request"] for record in records],
        "answers": [{name: record[name] for name in OF_ANSWER} for record in records],
        "features": {
            name: [record["features"][name] for record in records]
            for name in first["features"]
            if name not in first["event_times"]
        },
        "views": {
            "view": [
                [-(2**63)] * len(records),
                {name: [record["features"].get(name) for record in records] for name in first["event_times"]},
            ]
        },
    }


def older_entry(written: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as workers of older versions wrote it: an event time of each feature."""
    views: Mapping[str, Any] = written["views"]
    values = {name: each for _, kept in views.values() for name, each in kept.items() if each is not None}
    return {
        **{name: each for name, each in written.items() if name != "views"},
        "features": written["features"] | values,
        "event_times": {name: times for times, kept in views.values() for name in kept},
    }


def logged_records(result: Any) -> list[dict[str, Any]]:
    """The log records of a result that a worker hands to its log."""
    return [
        record | {"event_times": feature_event_times(record)}
        for entry in result.entries()
        for record in entry_records(encode_entry(entry))
    ]


@dataclass(frozen=True)
class Answers:
    """A stand-in for the answers to one request."""

    ids: tuple[str, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.ids

    def entries(self) -> Iterator[dict[str, Any]]:
        yield entry(*map(record, self.ids))
