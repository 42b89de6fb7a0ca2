"""Training runs and their files in object storage, the source for serving, gates, checks and lineage.

`runs/<run>/<file>` are a run's files. `models/<problem>/runs/<run>.json` is its record, written after all files: a run
without a record was interrupted. MLflow has copies of both, which are never read
(truecourse/registry/mlflow_mirror.py).
"""

import dataclasses
import json
from collections.abc import Mapping

from pydantic import TypeAdapter

from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.modeling.decisions import DecisionRule
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.intervals import IntervalRule
from truecourse.modeling.model import Model
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion, StoredRecord, TrainedRun, UtcTime
from truecourse.storage.object_store import ObjectStore, open_store

SHA256 = "truecourse.model_sha256"
_RULE: TypeAdapter[DecisionRule | None] = TypeAdapter(DecisionRule | None)
_INTERVAL: TypeAdapter[IntervalRule | None] = TypeAdapter(IntervalRule | None)
FORM = "truecourse.form"
"""Tag of a run: the model's form, and the losses it was chosen by."""


class RunRecord(StoredRecord):
    """A finished training run.

    `key`: training_key() of its snapshot, problem and parameters; a second run with the same key is not needed. `tags`:
    of MLflow's run. `name`, `note` (Markdown): in MLflow. `at`: when it finished, UTC."""

    run: TrainedRun
    key: str
    name: str
    note: str
    tags: dict[str, str]
    at: UtcTime


def artifact_key(run_id: str, name: str) -> str:
    return f"runs/{run_id}/{name}"


def artifact(run_id: str, name: str) -> bytes:
    """Read a run's file by path, as `model/vocabulary.json` or `report.json`. Raises NotFound."""
    return open_store().get(artifact_key(run_id, name))


def put_artifacts(run_id: str, files: Mapping[str, bytes]) -> None:
    store = open_store()
    for name, data in files.items():
        store.put(artifact_key(run_id, name), data)


def save_record(entry: RunRecord) -> None:
    """Save the record of a run whose files are complete, and make it the newest run of its problem."""
    store, problem = open_store(), entry.run.problem
    store.put(record_key(problem, entry.run.run_id), entry.model_dump_json(indent=1).encode())
    for name in (f"keys/{entry.key}", "newest"):
        store.put(f"models/{problem}/{name}", entry.run.run_id.encode())


def load_record(problem: str, run_id: str) -> RunRecord:
    """Load a run's record. Raises ModelError if there is no such run."""
    try:
        return RunRecord.model_validate_json(open_store().get(record_key(problem, run_id)))
    except NotFound:
        hint = f"truecourse run train --problem {problem}"
        raise ModelError("no such training run", where=f"run {run_id} of problem {problem}", hint=hint) from None


def record_digest(problem: str, run_id: str) -> str:
    """Return the SHA-256 of a run's record. Raises ModelError if there is no such run."""
    load_record(problem, run_id)
    return open_store().digest(record_key(problem, run_id))


def run_ids(problem: str) -> list[str]:
    """Return the ids of all finished runs, not in order of time."""
    return [key.rpartition("/")[2].removesuffix(".json") for key in open_store().list(f"models/{problem}/runs/")]


def run_of_key(problem: str, key: str) -> TrainedRun | None:
    """Return the newest finished run of a training key; None if there is none, or its model was deleted."""
    store = open_store()
    try:
        found = load_record(problem, store.get(f"models/{problem}/keys/{key}").decode()).run
    except (NotFound, ModelError):
        return None
    return found if store.exists(artifact_key(found.run_id, "model/model.ubj")) else None


def trained_run(problem: str, run_id: str | None = None) -> TrainedRun:
    """Return a training run by id, or the newest finished one. Raises ModelError if there is none."""
    if run_id is not None:
        return load_record(problem, run_id).run
    try:
        return load_record(problem, open_store().get(f"models/{problem}/newest").decode()).run
    except NotFound:
        hint = f"truecourse run train --problem {problem}"
        raise ModelError("no model was trained yet", where=f"problem {problem}", hint=hint) from None


def delete_run(store: ObjectStore, entry: RunRecord) -> None:
    """Delete a run, its record first: an interrupted deletion leaves files without a record, not the reverse."""
    problem, run_id = entry.run.problem, entry.run.run_id
    store.delete(record_key(problem, run_id))
    key = f"models/{problem}/keys/{entry.key}"
    if store.exists(key) and store.get(key).decode() == run_id:
        store.delete(key)
    for name in list(store.list(f"runs/{run_id}/")):
        store.delete(name)


def record_key(problem: str, run_id: str) -> str:
    return f"models/{problem}/runs/{run_id}.json"


def open_model(version: ModelVersion | TrainedRun, kind: Kind, threads: int | None = None) -> Model:
    """Load the model and verify its SHA-256. Raises IntegrityError when its bytes have changed or are missing."""
    key = artifact_key(version.run_id, "model/model.ubj")
    try:
        data = open_store().get(key)
        vocabulary = artifact(version.run_id, "model/vocabulary.json")
    except NotFound as error:
        hint = f"restore the object, or `truecourse run train --problem {version.problem}`"
        raise IntegrityError("the model's file is gone from storage", where=error.where, hint=hint) from None
    if sha256(data) != version.model_sha256:
        hint = f"restore the object, or `truecourse run train --problem {version.problem}`"
        raise IntegrityError("the model's bytes were changed", where=key, hint=hint)
    model = Model.load(data, Vocabulary.from_json(vocabulary), kind, threads)
    decision, interval = _rules(version.run_id)
    return dataclasses.replace(model, decision=decision, interval=interval)


def _rules(run_id: str) -> tuple[DecisionRule | None, IntervalRule | None]:
    """Return the decision rule and the intervals in a run's contract; None for those that it does not have."""
    try:
        contract = json.loads(artifact(run_id, "model/contract.json"))
    except NotFound:  # a run of which only the model was kept
        return None, None
    rule, interval = (json.dumps(contract.get(name)) for name in ("decision", "interval"))
    return _RULE.validate_json(rule), _INTERVAL.validate_json(interval)
