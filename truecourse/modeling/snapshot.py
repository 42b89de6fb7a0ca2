"""Snapshots: immutable training frames named by the SHA-256 of their Parquet bytes, with a manifest of every input."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from truecourse.errors import AlreadyExists, IntegrityError, NotFound
from truecourse.hashing import sha256
from truecourse.problem import RandomSplit, TimeSplit
from truecourse.references import Snapshot, StoredRecord, TableVersion
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.redactions import is_changed, redacted_at
from truecourse.wording import counted

ROW_GROUP = 1 << 17
"""Rows of a Parquet row group of a frame."""


class Proof(StoredRecord):
    """The result of a look-ahead proof.

    `rows`: compared rows of each view, the spine and the labels, over all sampled moments. `unstable`: views that
    returned different values from the same sources. `applies`: whether any SQL reads a table with a time."""

    applies: bool
    moments: int = 0
    rows: dict[str, int] = Field(default_factory=dict)
    unstable: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if not self.applies:
            return "Look-ahead: not applicable, no SQL reads a table with a time."
        compared = f"{counted(sum(self.rows.values()), 'row')} of {counted(len(self.rows), 'query')}"
        sentence = f"Look-ahead: none on {self.moments} sampled moments ({compared})."
        return sentence + (f" Not stable: {', '.join(self.unstable)}." if self.unstable else "")


class Input(BaseModel):
    """An input table of a snapshot: its version, and the SHA-256 of each of its files by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["clean", "features"]
    table: TableVersion
    files: dict[str, str]


class Manifest(StoredRecord):
    """The inputs and definitions that a snapshot was built from.

    `problem_digest`, `document`: the parts of the problem that training depends on (training_document() of
    truecourse/problem/loader.py). `rows` counts every row of the spine: used, unlabelled, not yet closed. `split`: None
    in manifests of older versions. `look_ahead`: the proof that the SQL reads no row before it was known. `unlabelled`:
    the SHA-256 of the file of decisions that never got a label; empty without it, and in older manifests."""

    problem: str
    problem_digest: str
    document: dict[str, Any]
    until: str | None
    split: TimeSplit | RandomSplit | None = None
    rows: dict[str, int]
    columns: dict[str, str]
    inputs: tuple[Input, ...]
    look_ahead: Proof | None = None
    unlabelled: str = ""

    def versions(self, role: Literal["clean", "features"]) -> dict[str, TableVersion]:
        """Return table versions by table or view name."""
        return {item.name: item.table for item in self.inputs if item.role == role}


@dataclass(frozen=True)
class SerializedFrame:
    """A frame as Parquet. `columns`: the name of each column and its type."""

    data: bytes
    rows: int
    columns: dict[str, str]


def serialize(parts: Iterable[pa.Table]) -> SerializedFrame:
    """Serialize a frame as Parquet, given its rows in one part or several.

    One Arrow version gives equal bytes for equal frames, however they are cut into parts. Beside the bytes, one part
    and one row group are in memory."""
    sink, rows = pa.BufferOutputStream(), 0
    groups = _row_groups(parts)
    first = next(groups)
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        for group in chain([first], groups):
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += len(group)
    columns = {field.name: str(field.type) for field in first.schema}
    return SerializedFrame(sink.getvalue().to_pybytes(), rows, columns)


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut the rows of all parts anew, into groups of ROW_GROUP rows; the last is shorter. A frame without rows is one
    empty group."""
    kept: pa.Table | None = None
    for part in parts:
        part = part.replace_schema_metadata(None)
        kept = part if kept is None else pa.concat_tables([kept, part])
        while len(kept) > ROW_GROUP:
            yield kept.slice(0, ROW_GROUP).combine_chunks()
            kept = kept.slice(ROW_GROUP)
    if kept is not None:
        yield kept.combine_chunks()


def save(
    store: ObjectStore, frame: SerializedFrame, manifest: Manifest, unlabelled: SerializedFrame | None = None
) -> Snapshot:
    """Store a frame and its manifest. Saving equal bytes again changes nothing: the first manifest is kept.

    `unlabelled`: decisions without a label on the days of the validation and test rows; see load_unlabelled()."""
    snapshot = Snapshot(problem=manifest.problem, sha256=sha256(frame.data), rows=frame.rows)
    without = None if unlabelled is None else unlabelled.data
    manifest = manifest.model_copy(update={"unlabelled": "" if without is None else sha256(without)})
    others = [] if without is None else [(unlabelled_key(snapshot, manifest), without)]
    # The manifest last: a snapshot exists once its manifest does.
    for key, content in (
        (snapshot.frame_key, frame.data),
        *others,
        (snapshot.manifest_key, json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode()),
    ):
        try:
            store.put_new(key, content)
        except AlreadyExists:
            continue
    return snapshot


def unlabelled_key(snapshot: Snapshot, manifest: Manifest) -> str:
    """Return the key of the decisions without a label. It has their digest, so that it fits the first manifest."""
    return f"snapshots/{snapshot.problem}/{snapshot.sha256}/unlabelled-{manifest.unlabelled[:12]}.parquet"


def load_unlabelled(store: ObjectStore, snapshot: Snapshot) -> pa.Table | None:
    """Load the decisions of closed cohorts that never got a label, on the days of the validation and test rows.

    They have the frame's columns without the label. None for a snapshot without them. Raises IntegrityError when the
    bytes have changed."""
    manifest = load_manifest(store, snapshot)
    if not manifest.unlabelled:
        return None
    return _read(store, unlabelled_key(snapshot, manifest), manifest.unlabelled)


def load_frame(store: ObjectStore, snapshot: Snapshot) -> pa.Table:
    """Load the frame and verify its SHA-256; a forgotten subject's rows are missing. Raises IntegrityError when its
    bytes have changed otherwise."""
    return _read(store, snapshot.frame_key, snapshot.sha256)


def _read(store: ObjectStore, key: str, digest: str) -> pa.Table:
    data = store.get(key)
    if is_changed(store, key, digest, sha256(data)):
        hint = "restore the object from a backup, or build the snapshot again with `truecourse run train`"
        raise IntegrityError("the snapshot's bytes were changed", where=key, hint=hint)
    return pq.read_table(pa.BufferReader(data))


def snapshot_redacted_at(store: ObjectStore, snapshot: Snapshot) -> datetime | None:
    """When a subject's rows were last removed from the frame; None if its bytes are as recorded."""
    try:
        return redacted_at(store, snapshot.frame_key, snapshot.sha256, store.digest(snapshot.frame_key))
    except NotFound:
        return None


def load_manifest(store: ObjectStore, snapshot: Snapshot) -> Manifest:
    return Manifest.model_validate_json(store.get(snapshot.manifest_key))
