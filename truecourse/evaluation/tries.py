"""How many versions were tried against one champion on the same rows: the more, the surer one of them must be.

Of five versions that are all as good as the champion, the best passes a gate of 2.5% in about one of ten tries. The
k-th version tried on the same rows is therefore held to 2.5% / k²: of however many equal versions, any is promoted
in at most 4.1%, and the first is judged as if there were no others.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.errors import AlreadyExists
from truecourse.statistics.intervals import COVERAGE
from truecourse.storage.object_store import ObjectStore

_SAME = 0.5
"""Two tries are on the same rows where they share this much of the later one's time, or of its rows."""


def coverage_of(number: int) -> float:
    """Of the interval of the k-th version that is tried on the same rows."""
    return 1 - (1 - COVERAGE) / number**2


def try_number(store: ObjectStore, problem: str, champion: int, model_sha256: str, rows: pa.Table) -> int:
    """The how-manieth a model is, from 1, of those tried against a champion on these rows. It is recorded when it is
    first tried: asked again, the same model has the same number."""
    folder = f"models/{problem}/tries/{champion:09d}"
    now = {"model_sha256": model_sha256, "at": datetime.now(UTC).isoformat(), **_told(rows)}
    key = f"{folder}/{model_sha256}.json"
    try:
        store.put_new(key, json.dumps(now).encode())
    except AlreadyExists:
        now |= {"at": json.loads(store.get(key))["at"]}
    others = [json.loads(store.get(name)) for name in store.list(f"{folder}/") if name != key]
    before = [one for one in others if (one["at"], one["model_sha256"]) < (now["at"], model_sha256)]
    return 1 + sum(_same(one, now) for one in before)


def _told(rows: pa.Table) -> dict[str, Any]:
    if "decision_time" not in rows.column_names or not len(rows):
        return {"rows": len(rows)}
    bounds = pc.min_max(rows["decision_time"]).as_py()
    return {"rows": len(rows), "first": bounds["min"].timestamp(), "last": bounds["max"].timestamp()}


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    if "first" not in before or "first" not in now:
        return bool(before["rows"] >= _SAME * now["rows"])
    shared = min(before["last"], now["last"]) - max(before["first"], now["first"])
    return bool(shared >= _SAME * (now["last"] - now["first"]))
