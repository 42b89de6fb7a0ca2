"""Correction for multiple comparisons: versions tried against one champion on the same rows.

If five versions are all as good as the champion, the best passes a one-sided test at 2.5% in about one of ten cases.
The k-th version tried on the same rows is therefore tested at 2.5% / k² (alpha spending): with any number of equal
versions, the probability that one is promoted is at most 4.1%, and the first is tested as if it were the only one.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.errors import AlreadyExists
from truecourse.statistics.intervals import COVERAGE
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import numbered, read_numbered

FALSE_DIFFERENCES = 0.025
"""The probability that `compare` calls any of several equal models different. With 5%, more than 10 of 200 comparisons
would err in two of five such series."""
_SAME = 0.5
"""Two tries count as on the same rows if they share at least this fraction of the later one's period, or rows."""


def coverage_of(number: int) -> float:
    """Return the coverage of the interval for the k-th version tried on the same rows."""
    return 1 - (1 - COVERAGE) / number**2


def coverage_of_each(others: int) -> float:
    """Return the coverage of each interval where one model is compared with several others (Bonferroni).

    The probability that any of them appears different from an equal one is then at most FALSE_DIFFERENCES."""
    return 1 - FALSE_DIFFERENCES / max(others, 1)


def try_number(store: ObjectStore, problem: str, champion: int, model_sha256: str, rows: pa.Table) -> int:
    """Return a model's number, from 1, among those tried against a champion on these rows.

    The first call records it; later calls for the same model return the same number."""
    folder = f"models/{problem}/tries/{champion:09d}"
    now = {"model_sha256": model_sha256, "at": datetime.now(UTC).isoformat(), **_describe_rows(rows)}
    key = f"{folder}/{model_sha256}.json"
    try:
        store.put_new(key, json.dumps(numbered(now)).encode())
    except AlreadyExists:
        now |= {"at": read_numbered(store.get(key), key)["at"]}
    others = [read_numbered(store.get(name), name) for name in store.list(f"{folder}/") if name != key]
    before = [one for one in others if (one["at"], one["model_sha256"]) < (now["at"], model_sha256)]
    return 1 + sum(_is_same_sample(one, now) for one in before)


def _describe_rows(rows: pa.Table) -> dict[str, Any]:
    if "decision_time" not in rows.column_names or not len(rows):
        return {"rows": len(rows)}
    bounds = pc.min_max(rows["decision_time"]).as_py()
    return {"rows": len(rows), "first": bounds["min"].timestamp(), "last": bounds["max"].timestamp()}


def _is_same_sample(before: dict[str, Any], now: dict[str, Any]) -> bool:
    if "first" not in before or "first" not in now:
        return bool(before["rows"] >= _SAME * now["rows"])
    shared = min(before["last"], now["last"]) - max(before["first"], now["first"])
    return bool(shared >= _SAME * (now["last"] - now["first"]))
