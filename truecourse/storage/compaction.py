"""Merge the small files that many small commits leave, in commits of their own that change no row.

A compaction repeats the record of the commit before it, without deliveries and rows, so the newest commit still
describes the table. Earlier versions keep their files until cleanup deletes them.
"""

from typing import Any

import pyarrow as pa

from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

MOST_SMALL = 16
"""Small files of a table that are kept; more are merged before the next write."""
SMALL = 1 << 20
"""Bytes below which a file is small."""
_TARGET = 16 << 20
"""Most bytes of a merged file, and so about the most that a write rewrites."""
_FLOW = "compact"
_EMPTIED: dict[str, Any] = {"deliveries": [], "edits": [], "spans": []}
"""Lists of a commit that a compaction leaves empty."""


def compact_small_files(tables: Tables, name: str) -> bool:
    """Merge a table's small files if there are more than MOST_SMALL. Needs the lock of the table's writers.

    Write rows afterwards: views that were computed from the version before count as outdated."""
    reference = tables.version(name)
    if reference is None or len(tables.files(reference)) <= MOST_SMALL:
        return False
    sizes = pa.table(tables.open(name, reference.version).get_add_actions(flatten=True))["size_bytes"].to_pylist()
    if sum(size < SMALL for size in sizes) <= MOST_SMALL:
        return False
    _, last = tables.commits(name)[-1]
    commit = {key: _EMPTIED.get(key, value) for key, value in last.items() if key != "rewritten"}
    if "rows" in commit:
        commit["rows"] = dict.fromkeys(commit["rows"], 0) if isinstance(commit["rows"], dict) else 0
    commit |= {"mode": "incremental"} if "mode" in commit else {}
    return tables.compact(name, commit=commit | {"flow": _FLOW, "run": ""}, size=_TARGET) > 0


def after_compactions(tables: Tables, reference: TableVersion) -> TableVersion:
    """The version after the compactions that directly follow a version; it has the same rows."""
    version = reference.version
    for number, commit in tables.commits(reference.name):
        if number == version + 1 and commit.get("flow") == _FLOW:
            version = number
    return TableVersion(name=reference.name, version=version)
