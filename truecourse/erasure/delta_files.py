"""Remove a subject from the files of a Delta table in place, in all versions, without a new version.

Every version stays readable: each file keeps its name, and the log gets its new size and statistics. The writer of
delta-rs makes files and statistics, so that they are as in any other commit.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import WriterProperties, write_deltalake

from truecourse.erasure.frames import clean_rows
from truecourse.erasure.subject import Subject
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import ROW_GROUP
from truecourse.storage.fsync import CHECKPOINT, LOG
from truecourse.storage.object_store import ObjectStore

_LARGEST = 1 << 40
_STATISTICS = "delta.dataSkippingStatsColumns"


@dataclass(frozen=True)
class NewFile:
    """The bytes of a file, and its statistics as in a commit. `removed`: rows; `masked`: cells of other rows."""

    data: bytes
    statistics: str
    removed: int
    masked: int


def table_names(store: ObjectStore, prefix: str) -> list[str]:
    """The names of the Delta tables below a prefix."""
    return sorted({key.partition(f"/{LOG}/")[0] for key in store.list(prefix) if f"/{LOG}/" in key})


def data_files(store: ObjectStore, table: str) -> list[str]:
    """The keys of all Parquet files of a table, including those that no version needs."""
    keys = store.list(f"{table}/")
    return [key for key in keys if key.endswith(".parquet") and not key.startswith(f"{table}/{LOG}/")]


def rewrite_file(
    data: bytes, subjects: Sequence[Subject], statistics_of: str | None, *, declared: bool
) -> NewFile | None:
    """A file without the subjects; None if they are not in it. `statistics_of`: the table's columns with statistics,
    separated by commas; None for all. `declared`: as in clean_rows()."""
    rows = _read(data)
    cleaned = clean_rows(rows, subjects, declared=declared)
    if not cleaned.removed and not cleaned.masked:
        return None
    new, statistics = _write(cleaned.rows, statistics_of)
    return NewFile(new, statistics, cleaned.removed, cleaned.masked)


def statistics_columns(store: ObjectStore, table: str) -> str | None:
    """The columns of which the table's commits have statistics, separated by commas; None for all."""
    for key in _commits(store, table):
        for action in _actions(store.get(key)):
            if "metaData" in action:
                found: str | None = action["metaData"].get("configuration", {}).get(_STATISTICS)
                return found
    return None


def patch_log(store: ObjectStore, table: str, files: Mapping[str, tuple[int, str]]) -> Iterator[tuple[str, bytes]]:
    """The commits and checkpoints of a table that change, as (key, new bytes). `files`: the size and statistics of each
    rewritten file, by its key."""
    by_path = {key.removeprefix(f"{table}/"): facts for key, facts in files.items()}
    for key in _commits(store, table):
        data = store.get(key)
        lines = [_patched(line, by_path) for line in data.split(b"\n")]
        if (new := b"\n".join(lines)) != data:
            yield key, new
    for key in sorted(store.list(f"{table}/{LOG}/")):
        if key.endswith(".parquet"):
            data = store.get(key)
            if (checkpoint := _patched_checkpoint(data, by_path)) is not None:
                yield key, checkpoint


def remove_pointer(store: ObjectStore, table: str) -> None:
    """Delete the pointer to the last checkpoint, which names its size. Readers then list the log."""
    store.delete(f"{table}/{LOG}/{CHECKPOINT}")


def facts_of(data: bytes, statistics_of: str | None) -> tuple[int, str]:
    """The size of a stored file, and its statistics."""
    return len(data), _write(_read(data), statistics_of)[1]


def _read(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def _write(rows: pa.Table, statistics_of: str | None) -> tuple[bytes, str]:
    if not len(rows):
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        return bytes(sink.getvalue().to_pybytes()), json.dumps({"numRecords": 0})
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    present = [name for name in (statistics_of or "").split(",") if name in rows.column_names]
    with tempfile.TemporaryDirectory(dir=temporary, prefix="forget-") as folder:
        write_deltalake(
            folder,
            rows.replace_schema_metadata(None),
            configuration={_STATISTICS: ",".join(present)} if present else {},
            target_file_size=_LARGEST,
            writer_properties=WriterProperties(max_row_group_size=ROW_GROUP, compression="SNAPPY"),
        )
        (log,) = (Path(folder) / LOG).glob("*.json")
        (added,) = [action["add"] for action in _actions(log.read_bytes()) if "add" in action]
        return (Path(folder) / unquote(added["path"])).read_bytes(), added["stats"]


def _commits(store: ObjectStore, table: str) -> list[str]:
    return [key for key in sorted(store.list(f"{table}/{LOG}/")) if key.endswith(".json")]


def _actions(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def _patched(line: bytes, by_path: Mapping[str, tuple[int, str]]) -> bytes:
    if not line.strip():
        return line
    action = json.loads(line)
    changed = False
    for kind in ("add", "remove"):
        facts = by_path.get(unquote(action[kind]["path"])) if kind in action else None
        if facts is not None:
            changed = True
            if action[kind].get("size") is not None:
                action[kind]["size"] = facts[0]
            if action[kind].get("stats") is not None:
                action[kind]["stats"] = facts[1]
    return json.dumps(action, separators=(",", ":"), ensure_ascii=False).encode() if changed else line


def _patched_checkpoint(data: bytes, by_path: Mapping[str, tuple[int, str]]) -> bytes | None:
    rows = _read(data)
    records, changed = rows.to_pylist(maps_as_pydicts=None), False
    for record in records:
        for kind in ("add", "remove"):
            entry = record.get(kind)
            facts = by_path.get(unquote(entry["path"])) if entry and entry.get("path") else None
            if facts is not None:
                changed = True
                entry |= {name: fact for name, fact in zip(("size", "stats"), facts, strict=True) if name in entry}
                if entry.get("stats_parsed") is not None:
                    entry["stats_parsed"] = None
    if not changed:
        return None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records, schema=rows.schema), sink)
    return bytes(sink.getvalue().to_pybytes())
