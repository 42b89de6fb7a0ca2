"""Snapshots: immutable training frames named by the SHA-256 of their Parquet bytes, with a manifest of every input."""

import json
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from truecourse.errors import AlreadyExists, IntegrityError
from truecourse.hashing import sha256
from truecourse.modeling.lookahead_result import Proof
from truecourse.problem import RandomSplit, TimeSplit
from truecourse.references import Snapshot, TableVersion
from truecourse.storage.object_store import ObjectStore


class Input(BaseModel):
    """A table that went into a snapshot: its version, and the SHA-256 of each of its files by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["clean", "features"]
    table: TableVersion
    files: dict[str, str]


class Manifest(BaseModel):
    """What a snapshot was made from. `problem_digest`, `document`: of what training depends on (training_document()
    of truecourse/problem/loader.py). `rows` accounts for every row of the spine: used, unlabelled, not yet closed.
    `split`: the one it was taken by; None in manifests of before it was kept. `look_ahead`: the proof that its SQL
    reads no row that was not known yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    problem_digest: str
    document: dict[str, Any]
    until: str | None
    split: TimeSplit | RandomSplit | None = None
    rows: dict[str, int]
    columns: dict[str, str]
    inputs: tuple[Input, ...]
    look_ahead: Proof | None = None

    def versions(self, role: Literal["clean", "features"]) -> dict[str, TableVersion]:
        """Table versions by table or view name."""
        return {item.name: item.table for item in self.inputs if item.role == role}


def frame_bytes(frame: pa.Table) -> bytes:
    """Parquet, the same bytes for equal frames under one Arrow version."""
    sink = pa.BufferOutputStream()
    pq.write_table(frame.replace_schema_metadata(None), sink, compression="zstd", row_group_size=1 << 17)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def save(store: ObjectStore, frame: pa.Table, manifest: Manifest) -> Snapshot:
    """Store a frame and its manifest. Saving equal bytes again changes nothing: the first manifest stands."""
    data = frame_bytes(frame)
    snapshot = Snapshot(problem=manifest.problem, sha256=sha256(data), rows=len(frame))
    # The manifest last: a snapshot is there when its manifest is.
    for key, content in (
        (snapshot.frame_key, data),
        (snapshot.manifest_key, json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode()),
    ):
        try:
            store.put_new(key, content)
        except AlreadyExists:
            continue
    return snapshot


def load_frame(store: ObjectStore, snapshot: Snapshot) -> pa.Table:
    """The frame, re-hashed. Raises IntegrityError when its bytes are not the recorded ones."""
    data = store.get(snapshot.frame_key)
    if sha256(data) != snapshot.sha256:
        hint = "restore the object from a backup, or build the snapshot again with `truecourse run train`"
        raise IntegrityError("the snapshot's bytes were changed", where=snapshot.frame_key, hint=hint)
    return pq.read_table(pa.BufferReader(data))


def load_manifest(store: ObjectStore, snapshot: Snapshot) -> Manifest:
    return Manifest.model_validate_json(store.get(snapshot.manifest_key))
