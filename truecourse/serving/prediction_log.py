"""The prediction log: entries written by workers, records parsed from them, and the table of records.

A record is one prediction. An entry holds one model's predictions for one request, so that many rows cost little more
than few: the fields OF_ENTRY once; `requests` and `answers` as sent, one per row; `features` with the values of each,
or its kind where the requests hold the values under the same name; `views` with the features that were looked up, by
view: [its event times in microseconds UTC, -2**63 for none, the values of each feature, None if dropped]. All features
of a view come from one row, so their event time is written once. Entries of older versions have `event_times` by
feature instead, and all values in `features`.

The table is separate from the batches' `predictions/<problem>`, whose rows are replaced when a batch is repeated, and
which has a column per feature. The log is append-only, and its columns do not depend on the features.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.arrow_types import UTC_TIME
from truecourse.storage.delta_tables import Tables

SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("at", UTC_TIME),
        ("day", pa.string()),
        ("problem", pa.string()),
        ("model_version", pa.int64()),
        ("model_sha256", pa.string()),
        ("role", pa.string()),
        ("id", pa.string()),
        ("decision_time", UTC_TIME),
        ("request", pa.string()),
        ("features", pa.string()),
        ("event_times", pa.string()),
        ("score", pa.float64()),
        ("scores", pa.string()),
        ("prediction", pa.string()),
        ("base", pa.float64()),
        ("contributions", pa.string()),
        ("seconds", pa.float64()),
        ("batch", pa.int64()),
        ("error", pa.string()),
        ("view_event_times", pa.map_(pa.string(), UTC_TIME)),
        ("view_features", pa.string()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
    ]
)
"""`at`: when the request arrived. `day`: of `at`, UTC, as 2024-05-01. `role`: champion, challenger, or shadow (scored
in addition, with the prediction_id of the response). `id`: as the client sent it. `request`, `features`, `scores` by
class and `contributions` are JSON. `view_event_times`: of the row that each view's features were looked up in.
`view_features`: the names of these features by view, as JSON; constant for a model. `seconds`: for reading features and
scoring, of the `batch` rows of one request that were scored together. `error`: the type of exception that a challenger
raised, as a shadow or before the champion answered instead; such a record has role shadow and no prediction. Tables
and records of older versions lack `seconds`, `batch`, `error`, `lower` and `upper`, or have the event time of each
feature in `event_times`, as JSON, and no `view_event_times` and `view_features`: see feature_event_times()."""
PARTITION = "day"
SEARCHED = ("at", "decision_time", "prediction_id")
"""The columns whose minimum and maximum are in the commits: files are searched by them. Ids sort by time
(truecourse.unique_ids)."""
OF_ANSWER = (
    "prediction_id", "id", "decision_time", "score", "scores", "prediction", "lower", "upper", "base", "contributions",
)  # fmt: skip
OF_ENTRY = ("at", "problem", "model_version", "model_sha256", "role", "seconds", "batch", "error")
VIEW_COLUMNS = ("view_event_times", "view_features")
_JSON = ("request", "features", "event_times", "scores", "contributions")


def log_table(problem: str) -> str:
    return f"predictions_log/{problem}"


def encode_entry(entry: Mapping[str, Any]) -> bytes:
    """Encode an entry for a segment: JSON, with times in ISO 8601.

    An entry with an integer of more than 64 bits, which orjson does not support, begins with a space."""
    try:
        return orjson.dumps(entry)
    except TypeError:
        return b" " + json.dumps(entry, separators=(",", ":"), default=_moment, ensure_ascii=False).encode()


def _moment(value: Any) -> str:
    assert isinstance(value, datetime), type(value)
    return value.astimezone(UTC).isoformat()


def entries_table(entries: Iterable[bytes]) -> pa.Table:
    """Convert entries of segments to rows of the table."""
    return pa.Table.from_pylist([_row(record) for entry in entries for record in entry_records(entry)], SCHEMA)


def entry_records(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield a record for each answer of an entry, with times in ISO 8601."""
    entry: dict[str, Any] = json.loads(data) if data[:1] == b" " else orjson.loads(data)
    views: dict[str, Any] | None = entry.get("views")
    kept = dict(entry["features"])
    for _, values in (views or {}).values():
        kept |= {name: each for name, each in values.items() if each is not None}
    features = _by_row({name: _values(name, each, entry["requests"]) for name, each in kept.items()})
    given = entry["event_times"] if views is None else {name: times for name, (times, _) in views.items()}
    event_times = _by_row({name: _moments(times) for name, times in given.items()})
    names = None if views is None else {name: list(values) for name, (_, values) in views.items()}
    for request, answer in zip(entry["requests"], entry["answers"], strict=True):
        yield {
            **{name: answer.get(name) for name in OF_ANSWER},
            **{name: entry[name] for name in OF_ENTRY},
            "request": request,
            "features": next(features, {}),
            "event_times" if names is None else "view_event_times": next(event_times, {}),
            "view_features": names,
        }


def feature_event_times(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event time of each looked-up feature as ISO 8601 in UTC, None if no row was known.

    record: of entry_records() or of the table, of this version or of an older one."""
    views, given = record.get("view_features"), record.get("event_times")
    if views is None:
        return orjson.loads(given) if isinstance(given, str) else dict(given or {})
    named: Mapping[str, list[str]] = orjson.loads(views) if isinstance(views, str) else views
    times = {view: _iso(time) for view, time in dict(record["view_event_times"] or {}).items()}
    return {name: times.get(view) for view, names in named.items() for name in names}


def _iso(time: Any) -> Any:
    if not isinstance(time, datetime):
        return time
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _values(name: str, kept: str | list[Any], requests: list[dict[str, Any]]) -> list[Any]:
    """Return a feature's values: `kept` itself, or if it is the feature's kind, the values in the requests."""
    if not isinstance(kept, str):
        return kept
    sent = [request.get(name) for request in requests]
    if kept == "float":
        return [float(value) if isinstance(value, int) else value for value in sent]
    return [int(value) if isinstance(value, float) else value for value in sent]  # 3.0 may be sent for 3


def _by_row(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _moments(times: list[int]) -> list[str | None]:
    texts = np.datetime_as_string(np.array(times, dtype=np.int64).view("datetime64[us]")).tolist()
    return [None if time == "NaT" else f"{time}Z" for time in texts]


def _row(record: dict[str, Any]) -> dict[str, Any]:
    at = datetime.fromisoformat(record["at"])
    decided, given = record["decision_time"], record["id"]
    texts = {name: None if record.get(name) is None else _text(record[name]) for name in (*_JSON, "view_features")}
    times: Mapping[str, str | None] | None = record.get("view_event_times")
    return {
        **record,
        **texts,
        "view_event_times": None if times is None else [(view, _time(time)) for view, time in times.items()],
        "at": at,
        PARTITION: at.strftime("%Y-%m-%d"),
        "id": None if given is None else str(given),
        "decision_time": None if decided is None else datetime.fromisoformat(decided),
        "prediction": None if record["prediction"] is None else str(record["prediction"]),
    }


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(document: Any) -> str:
    try:
        return orjson.dumps(document).decode()
    except TypeError:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def parse_json_column(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Parse a JSON column of the table; null gives {}. Integers of more than 64 bits become floats."""
    documents: list[dict[str, Any]] = orjson.loads("[" + ",".join(column.fill_null("{}").to_pylist()) + "]")
    return documents


def find_records(tables: Tables, problem: str, prediction_id: str) -> list[dict[str, Any]]:
    """Find the records of a prediction with parsed JSON and the key of their `file`, shadows last; empty if none.

    Records of both forms have the `event_times` of each feature."""
    reference = tables.version(log_table(problem))
    if reference is None:
        return []
    condition = pc.field("prediction_id") == prediction_id
    found = tables.find_rows(reference, condition, [("prediction_id", "=", prediction_id)])
    parsed = [_parsed(row) for row in found]
    return sorted(parsed, key=lambda row: row["role"] == "shadow")


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    documents = {name: json.loads(row[name]) for name in _JSON if row[name] is not None}
    documents["event_times"] = feature_event_times(row)
    return {name: value for name, value in (row | documents).items() if name not in VIEW_COLUMNS}


def record_table(record: Mapping[str, Any]) -> pa.Table:
    """Convert a record of find_records() to a row of the table."""
    texts = {name: json.dumps(record[name]) for name in _JSON if record.get(name) is not None}
    return pa.Table.from_pylist([{**record, **texts}], SCHEMA)
