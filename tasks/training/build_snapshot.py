"""Build the training frame point in time, and store it as a snapshot."""

import logging
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from tasks.features.decision_frame import Versions, feature_versions, with_view_features
from tasks.retry import RETRY
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.errors import FeatureError, NotFound
from truecourse.features import frame as frames
from truecourse.features import lookahead_proof
from truecourse.features.clock import data_end
from truecourse.hashing import sha256_json
from truecourse.modeling.snapshot import Input, Manifest, Proof, SerializedFrame, save, serialize
from truecourse.modeling.splitting import problem_at
from truecourse.modeling.training import library_versions, method_digest
from truecourse.problem import Problem, RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem, training_digest, training_document
from truecourse.references import Snapshot, naive_utc
from truecourse.storage.delta_tables import Tables
from truecourse.storage.locks import locked

log = logging.getLogger("truecourse.modeling.snapshot")
_PART_ROWS = 500_000
"""Rows whose features are in memory at once."""


def training_frame(problem: Problem, frame: pa.Table, until: datetime | None) -> tuple[pa.Table, dict[str, int]]:
    """The labelled rows of closed cohorts with their split, and the number of rows of each kind.

    A cohort closes `closes_after` after its decision. Cohorts still open at `until` (naive UTC; by default the time of
    the newest label) are left out, since early labels are a biased sample; so are labels known later than `until`."""
    account = {"decisions": len(frame)}
    frame = _closed(problem, frame, until)
    account["open"] = account["decisions"] - len(frame)
    labelled = frame.filter(_known(frame, until))
    account["unlabelled"] = len(frame) - len(labelled)
    used = frames.add_split(problem, labelled)
    account["after_test"] = len(labelled) - len(used)
    sides = (
        dict(zip(*(c.to_pylist() for c in used["split"].value_counts().flatten()), strict=True)) if len(used) else {}
    )
    account |= {side: sides.get(side, 0) for side in ("train", "validate", "test")}
    empty = [side for side in ("train", "validate", "test") if not account[side]]
    if empty:
        hint = "check the split's dates, the label SQL and the numbers of rows: " + str(account)
        if isinstance(problem.split, RandomSplit):
            hint = "a class of the label needs at least three rows: one each for train, validate and test"
        raise FeatureError(f"no {' and no '.join(empty)}" + " rows", where=f"problem {problem.name}", hint=hint)
    return used.select(_names(problem, used, "label", "known_at", "split")), account


def unlabelled_rows(problem: Problem, frame: pa.Table, until: datetime | None) -> pa.Table | None:
    """The decisions of closed cohorts that have no label by `until`, on the days of the validation and test rows.

    Monitoring compares with them which decisions get a label. None for a problem without closed cohorts or a split by
    time."""
    if "known_at" not in frame.column_names or not isinstance(problem.split, TimeSplit):
        return None
    frame = _closed(problem, frame, until)
    without = frame.filter(pc.invert(pc.fill_null(_known(frame, until), False)))
    rows = frames.add_split(problem, without)
    rows = rows.filter(pc.is_in(rows["split"], pa.array(["validate", "test"])))
    return rows.select(_names(problem, rows, "split"))


def _closed(problem: Problem, frame: pa.Table, until: datetime | None) -> pa.Table:
    if "known_at" not in frame.column_names:
        return frame
    clock = until.replace(tzinfo=UTC) if until else pc.max(frame["known_at"]).as_py()
    if clock is None:
        return frame
    return frame.filter(pc.less_equal(frame["decision_time"], pa.scalar(clock - problem.label.closes_after, UTC_TIME)))


def _known(frame: pa.Table, until: datetime | None) -> pa.ChunkedArray:
    labelled = pc.is_valid(frame["label"])
    if until is None or "known_at" not in frame.column_names:
        return labelled
    return pc.and_kleene(labelled, pc.less_equal(frame["known_at"], pa.scalar(until.replace(tzinfo=UTC), UTC_TIME)))


def _names(problem: Problem, frame: pa.Table, *last: str) -> list[str]:
    """The columns of a frame in canonical order, without those that are not there."""
    order = dict.fromkeys(["id", "decision_time", *problem.request_fields, *problem.features, *last])
    return [name for name in order if name in frame.column_names]


def build_snapshot(
    problem: Problem, tables: Tables, *, clean: Versions, features: Versions, until: datetime | None = None,
    proof: Proof | None = None,
) -> Snapshot:  # fmt: skip
    """Build the snapshot of exactly these table versions, with labels of cohorts closed by `until` (naive UTC).

    `proof`: the look-ahead proof of an earlier snapshot with the same SQL; without it the SQL is tested again. Raises
    LookAheadError if SQL reads data that was not known yet."""
    decisions = frames.add_request_features(problem, frames.read_spine(problem, tables, clean))
    proof = proof or lookahead_proof.stored_proof(problem, tables, clean, features, decisions)
    rows, account = training_frame(problem, decisions, until)
    unlabelled = unlabelled_rows(problem, decisions, until)
    del decisions
    frame = _serialize(problem, tables, features, rows, "label", "known_at", "split")
    without = None if unlabelled is None else _serialize(problem, tables, features, unlabelled, "split")
    inputs = [("clean", n, v) for n, v in clean.items()] + [("features", n, v) for n, v in features.items()]
    manifest = Manifest(
        problem=problem.name,
        problem_digest=training_digest(problem),
        document=training_document(problem),
        until=until.isoformat() if until else None,
        split=problem.split,
        rows=account,
        columns=frame.columns,
        inputs=tuple(Input(name=n, role=r, table=v, files=tables.digests(v)) for r, n, v in inputs),
        look_ahead=proof,
    )
    snapshot = save(tables.store, frame, manifest, without)
    pa.default_memory_pool().release_unused()
    log.info("snapshot %s: %s", snapshot.sha256[:12], ", ".join(f"{n:,} {what}" for what, n in account.items() if n))
    return snapshot


def _serialize(problem: Problem, tables: Tables, features: Versions, rows: pa.Table, *last: str) -> SerializedFrame:
    """Add the views' features to rows, part by part, and serialize them. `last`: the last columns."""
    starts = range(0, max(len(rows), 1), _PART_ROWS)
    parts = (with_view_features(problem, tables, rows.slice(start, _PART_ROWS), features) for start in starts)
    return serialize(part.select(_names(problem, part, *last)) for part in parts)


@task(name="snapshot", **RETRY)
def take_snapshot(problem: str, until: datetime | None = None, moved: datetime | None = None) -> Snapshot:
    """Store the training frame of the newest clean and feature tables as a snapshot, unless it exists already.

    `until` (UTC if it has no zone): only labels known by then count; by default all, or with `clock="data"` those known
    by the data's end. `moved`: the time that a split by time moves to."""
    spec, tables = load_problem(problem), Tables()
    until = naive_utc(until or data_end(spec, tables))
    spec = problem_at(spec, moved) if moved else spec
    clean = clean_versions(spec, tables)
    features = feature_versions(spec, tables, clean)
    inputs = [
        training_digest(spec),
        *map(str, (*clean.values(), *features.values())),
        str(until),
        method_digest(),
        library_versions(),
    ]
    key = f"snapshots/{problem}/inputs/{sha256_json(inputs)}.json"
    with locked(tables.store, f"snapshots/{problem}"):  # retention deletes no frame that was just used
        snapshot = _existing(tables, key)
        if snapshot is not None:
            tables.store.put(key, snapshot.model_dump_json().encode())
            return snapshot
    snapshot = build_snapshot(spec, tables, clean=clean, features=features, until=until)
    tables.store.put(key, snapshot.model_dump_json().encode())
    return snapshot


def _existing(tables: Tables, key: str) -> Snapshot | None:
    """The snapshot that was built from the same inputs, if it still exists."""
    try:
        snapshot = Snapshot.model_validate_json(tables.store.get(key))
    except NotFound:
        return None
    return snapshot if tables.store.exists(snapshot.manifest_key) else None


@task(name="newest decision", **RETRY)
def newest_decision(problem: str) -> datetime | None:
    """The time (UTC) of the data's newest decision; with `clock="data"` the data's end (see truecourse.features.clock).

    None for a problem without time."""
    spec, tables = load_problem(problem), Tables()
    if not spec.has_time or spec.clock == "data":
        return data_end(spec, tables)
    times = frames.read_spine(frames.without_labels(spec), tables, clean_versions(spec, tables))["decision_time"]
    newest: datetime | None = pc.max(times).as_py()
    return newest
