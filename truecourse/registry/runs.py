"""Training runs and their files, in object storage: what serving, gates, checks and lineage rest on.

`runs/<run>/<file>` are a run's files, `models/<problem>/runs/<run>.json` is its record, written when all of them are
there: a run without one was cut short. MLflow shows a copy of both (truecourse/registry/mirror.py) and is never read
for them.
"""

from collections.abc import Mapping

from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.model import Model
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion, Reference, TrainedRun, UtcTime
from truecourse.storage.object_store import ObjectStore, open_store

SHA256 = "truecourse.model_sha256"
FORM = "truecourse.form"
"""The tag of a run that says what the model is made of, and by which figures that was chosen."""


class RunRecord(Reference):
    """A finished training run. `key`: of its snapshot, problem and parameters; a second run of the same key is not
    needed. `tags`: what MLflow's run is tagged with, by name. `name`, `note` (Markdown): how MLflow shows it. `at`:
    when it finished, UTC."""

    run: TrainedRun
    key: str
    name: str
    note: str
    tags: dict[str, str]
    at: UtcTime


def artifact_key(run_id: str, name: str) -> str:
    return f"runs/{run_id}/{name}"


def artifact(run_id: str, name: str) -> bytes:
    """A run's file by its path, `model/vocabulary.json` or `report.json`. Raises NotFound."""
    return open_store().get(artifact_key(run_id, name))


def put_artifacts(run_id: str, files: Mapping[str, bytes]) -> None:
    store = open_store()
    for name, data in files.items():
        store.put(artifact_key(run_id, name), data)


def save_record(entry: RunRecord) -> None:
    """Keep the record of a run whose files are all there; it is the newest run of its problem from now on."""
    store, problem = open_store(), entry.run.problem
    store.put(record_key(problem, entry.run.run_id), entry.model_dump_json(indent=1).encode())
    for name in (f"keys/{entry.key}", "newest"):
        store.put(f"models/{problem}/{name}", entry.run.run_id.encode())


def load_record(problem: str, run_id: str) -> RunRecord:
    """Raises ModelError if there is no such run."""
    try:
        return RunRecord.model_validate_json(open_store().get(record_key(problem, run_id)))
    except NotFound:
        hint = f"truecourse run train --problem {problem}"
        raise ModelError("no such training run", where=f"run {run_id} of problem {problem}", hint=hint) from None


def record_digest(problem: str, run_id: str) -> str:
    """The SHA-256 of a run's record. Raises ModelError if there is no such run."""
    load_record(problem, run_id)
    return open_store().digest(record_key(problem, run_id))


def run_ids(problem: str) -> list[str]:
    """Of every finished run, in no order of time."""
    return [key.rpartition("/")[2].removesuffix(".json") for key in open_store().list(f"models/{problem}/runs/")]


def run_of_key(problem: str, key: str) -> TrainedRun | None:
    """The newest finished run of a training key, if its model is still there."""
    store = open_store()
    try:
        found = load_record(problem, store.get(f"models/{problem}/keys/{key}").decode()).run
    except (NotFound, ModelError):
        return None
    return found if store.exists(artifact_key(found.run_id, "model/model.ubj")) else None


def trained_run(problem: str, run_id: str | None = None) -> TrainedRun:
    """A training run by id, or the newest finished one. Raises ModelError if there is none."""
    if run_id is not None:
        return load_record(problem, run_id).run
    try:
        return load_record(problem, open_store().get(f"models/{problem}/newest").decode()).run
    except NotFound:
        hint = f"truecourse run train --problem {problem}"
        raise ModelError("no model was trained yet", where=f"problem {problem}", hint=hint) from None


def delete_run(store: ObjectStore, entry: RunRecord) -> None:
    """Remove a run: its record first, so that one cut short leaves files and no run without them."""
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
    """The model, re-hashed. Raises IntegrityError when its bytes are not the recorded ones, or gone."""
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
    return Model.load(data, Vocabulary.from_json(vocabulary), kind, threads)
