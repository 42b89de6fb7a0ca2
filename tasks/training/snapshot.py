"""Build the training frame, point in time, and freeze it as a snapshot."""

import logging
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from tasks.features.decision_frame import Versions, decision_frame, feature_versions
from tasks.retry import RETRY
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.errors import FeatureError, NotFound
from truecourse.features import frame as frames
from truecourse.features import lookahead_proof
from truecourse.features.clock import data_end
from truecourse.hashing import sha256_json
from truecourse.modeling.lookahead_result import Proof
from truecourse.modeling.rolling_split import problem_at
from truecourse.modeling.snapshot import Input, Manifest, save
from truecourse.modeling.training import library_versions, method_digest
from truecourse.problem import Problem, RandomSplit
from truecourse.problem.loader import load_problem, training_digest, training_document
from truecourse.references import Snapshot, naive_utc
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.modeling.snapshot")


def training_frame(problem: Problem, frame: pa.Table, until: datetime | None) -> tuple[pa.Table, dict[str, int]]:
    """The labelled rows of closed cohorts with their split, and an account of every row.

    A cohort is closed `closes_after` after its decision; what is not by `until` (naive UTC; by default the moment of
    the newest label) is left out, since early labels are not a fair sample of all, and so is a label known later."""
    account = {"decisions": len(frame)}
    frame = _closed(problem, frame, until)
    account["open"] = account["decisions"] - len(frame)
    labelled = frame.filter(_known(frame, until))
    account["unlabelled"] = len(frame) - len(labelled)
    used = frames.with_split(problem, labelled)
    account["after_test"] = len(labelled) - len(used)
    sides = (
        dict(zip(*(c.to_pylist() for c in used["split"].value_counts().flatten()), strict=True)) if len(used) else {}
    )
    account |= {side: sides.get(side, 0) for side in ("train", "validate", "test")}
    empty = [side for side in ("train", "validate", "test") if not account[side]]
    if empty:
        hint = "check the split's dates, the label SQL and the account of rows: " + str(account)
        if isinstance(problem.split, RandomSplit):
            hint = "of some class of the label there have to be three rows: to train, to choose a model and to test"
        raise FeatureError(f"no {' and no '.join(empty)}" + " rows", where=f"problem {problem.name}", hint=hint)
    order = ["id", *_present(used, "decision_time"), *dict.fromkeys([*problem.request_fields, *problem.features])]
    return used.select([*order, "label", *_present(used, "known_at"), "split"]), account


def _closed(problem: Problem, frame: pa.Table, until: datetime | None) -> pa.Table:
    if "known_at" not in frame.column_names:
        return frame
    clock = until.replace(tzinfo=UTC) if until else pc.max(frame["known_at"]).as_py()
    if clock is None:
        return frame
    return frame.filter(pc.less_equal(frame["decision_time"], pa.scalar(clock - problem.label.closes_after, UTC_TIME)))


def _known(frame: pa.Table, until: datetime | None) -> pa.ChunkedArray:
    there = pc.is_valid(frame["label"])
    if until is None or "known_at" not in frame.column_names:
        return there
    return pc.and_kleene(there, pc.less_equal(frame["known_at"], pa.scalar(until.replace(tzinfo=UTC), UTC_TIME)))


def _present(frame: pa.Table, name: str) -> list[str]:
    return [name] if name in frame.column_names else []


def build_snapshot(
    problem: Problem, tables: Tables, *, clean: Versions, features: Versions, until: datetime | None = None,
    proof: Proof | None = None,
) -> Snapshot:  # fmt: skip
    """The snapshot of exactly these table versions, and of labels of cohorts closed by `until` (naive UTC).

    `proof`: of an earlier snapshot made by the same SQL; without it the SQL is tried anew. Raises LookAheadError where
    SQL reads what was not known yet."""
    decisions = decision_frame(problem, tables, clean, features)
    proof = proof or lookahead_proof.stored_proof(problem, tables, clean, features, decisions)
    frame, account = training_frame(problem, decisions, until)
    inputs = [("clean", n, v) for n, v in clean.items()] + [("features", n, v) for n, v in features.items()]
    manifest = Manifest(
        problem=problem.name,
        problem_digest=training_digest(problem),
        document=training_document(problem),
        until=until.isoformat() if until else None,
        split=problem.split,
        rows=account,
        columns={field.name: str(field.type) for field in frame.schema},
        inputs=tuple(Input(name=n, role=r, table=v, files=tables.digests(v)) for r, n, v in inputs),
        look_ahead=proof,
    )
    snapshot = save(tables.store, frame, manifest)
    log.info("snapshot %s: %s", snapshot.sha256[:12], ", ".join(f"{n:,} {what}" for what, n in account.items() if n))
    return snapshot


@task(name="snapshot", **RETRY)
def take_snapshot(problem: str, until: datetime | None = None, moved: datetime | None = None) -> Snapshot:
    """Freeze the training frame of the newest clean tables and feature tables, unless it was frozen before.

    `until` (UTC if it has no zone): labels count that were known by then; with `clock="data"` by the data's end unless
    given. `moved`: the moment that a split by time
    moves to."""
    spec, tables = load_problem(problem), Tables()
    until = naive_utc(until or data_end(spec, tables))
    spec = problem_at(spec, moved) if moved else spec
    clean = clean_versions(spec, tables)
    features = feature_versions(spec, tables, clean)
    said = [
        training_digest(spec),
        *map(str, (*clean.values(), *features.values())),
        str(until),
        method_digest(),
        library_versions(),
    ]
    key = f"snapshots/{problem}/inputs/{sha256_json(said)}.json"
    taken = _taken(tables, key)
    if taken is None:
        taken = build_snapshot(spec, tables, clean=clean, features=features, until=until)
        tables.store.put(key, taken.model_dump_json().encode())
    return taken


def _taken(tables: Tables, key: str) -> Snapshot | None:
    """What was built from these inputs, if it is still there."""
    try:
        snapshot = Snapshot.model_validate_json(tables.store.get(key))
    except NotFound:
        return None
    return snapshot if tables.store.exists(snapshot.manifest_key) else None


@task(name="newest decision", **RETRY)
def newest_decision(problem: str) -> datetime | None:
    """When (UTC) the data's newest decision was taken, with `clock="data"` as truecourse.features.clock tells it; None
    for a problem without time."""
    spec, tables = load_problem(problem), Tables()
    if not spec.has_time or spec.clock == "data":
        return data_end(spec, tables)
    times = frames.spine(frames.unlabelled(spec), tables, clean_versions(spec, tables))["decision_time"]
    newest: datetime | None = pc.max(times).as_py()
    return newest
