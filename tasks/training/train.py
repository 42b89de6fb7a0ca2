"""Train a model on a snapshot, as an MLflow run with everything needed to use, evaluate and reproduce it."""

import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from tasks.retry import RETRY
from truecourse.errors import NotFound
from truecourse.features.definition_digests import contract_definitions
from truecourse.hashing import sha256
from truecourse.modeling.boosting import LOSSES, parameters
from truecourse.modeling.snapshot import load_frame, load_manifest
from truecourse.modeling.splitting import problem_of
from truecourse.modeling.training import (
    OUT_OF_FOLD,
    TrainingResult,
    library_versions,
    out_of_fold_bytes,
    train,
    training_key,
    with_parameters,
)
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, problem_digest, problem_document, training_digest
from truecourse.problem.training import AnyModel
from truecourse.references import Snapshot, TrainedRun
from truecourse.registry import lineage_record, mlflow_runs, run_archive, runs
from truecourse.registry.runs import RunRecord
from truecourse.serving.contract import contract_bytes
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.stored_format import read_numbered
from truecourse.wording import counted

log = logging.getLogger("truecourse.modeling.training")


def tuning_key(snapshot: Snapshot) -> str:
    return f"tuning/{snapshot.problem}/{snapshot.sha256}.json"


def chosen_parameters(problem: Problem, store: ObjectStore, snapshot: Snapshot) -> AnyModel:
    """The problem's model with the best parameters of tuning on this snapshot. Raises NotFound if it was not tuned."""
    try:
        tuning = read_numbered(store.get(tuning_key(snapshot)), tuning_key(snapshot))
    except NotFound:
        hint = f"truecourse run tune --problem {problem.name}"
        raise NotFound("this snapshot was not tuned", where=tuning_key(snapshot), hint=hint) from None
    return with_parameters(problem.model, tuning["best"])


@task(name="train", **RETRY)
def train_model(problem: str, snapshot: Snapshot, tuned: bool = False) -> TrainedRun:
    """Train a model; returns the finished run of the same snapshot and parameters if there is one."""
    store = open_store()
    spec = problem_of(load_problem(problem), load_manifest(store, snapshot))
    model = chosen_parameters(spec, store, snapshot) if tuned else spec.model
    key = training_key(training_digest(spec), model, snapshot)
    existing = runs.run_of_key(problem, key)
    if existing is not None:
        log.info("run %s already trained this model", existing.run_id[:8])
        return existing
    frame = load_frame(store, snapshot)
    rows, features = counted(snapshot.rows, "row"), counted(len(spec.features), "feature")
    note = f"{spec.description}\n\n{rows} of snapshot `{snapshot.sha256}`, {features}.".strip()
    entry = MlflowEntry(f"train {problem} {snapshot.sha256[:8]}", note, mlflow_runs.run_tags(spec, "train", note))
    with _start_run(problem, entry) as (run_id, in_mlflow):
        start = _usage()
        trained = train(spec, frame, model)
        account = _training_document(model, trained) | {"cost": _cost_since(start)}
        return _save_run(spec, run_id, in_mlflow, entry, snapshot, key, account, trained, frame)


@dataclass(frozen=True)
class MlflowEntry:
    """A run's name, note and tags in MLflow."""

    name: str
    note: str
    tags: dict[str, str]


@contextmanager
def _start_run(problem: str, entry: MlflowEntry) -> Iterator[tuple[str, bool]]:
    """Start a run; yields its id and whether MLflow has it. If the block raises, it is marked as failed in MLflow."""
    run_id, in_mlflow = mlflow_runs.begin_run(problem, entry.name, entry.tags)
    try:
        yield run_id, in_mlflow
    except BaseException:
        if in_mlflow:
            with mlflow_runs.warn_on_failure("the failed run"):
                mlflow_runs.connect_mlflow().set_terminated(run_id, "FAILED")
        raise


def _save_run(
    problem: Problem, run_id: str, in_mlflow: bool, entry: MlflowEntry, snapshot: Snapshot, key: str,
    account: dict[str, Any], trained: TrainingResult, frame: pa.Table,
) -> TrainedRun:  # fmt: skip
    """Write the run's files, then its record, then its copy in MLflow."""
    ubj, tables = trained.model.ubj(), Tables()
    manifest = tables.store.get(snapshot.manifest_key)
    defined = contract_definitions(problem) | {"decision": trained.model.decision, "interval": trained.model.interval}
    files = _mlflow_model(trained) | {
        "model/model.ubj": ubj,
        "model/vocabulary.json": trained.model.vocabulary.to_json(),
        "model/problem.json": json.dumps(problem_document(problem), indent=1, sort_keys=True).encode(),
        "model/contract.json": contract_bytes(problem, trained.model.vocabulary, frame, defined),
        "lineage.json": json.dumps(
            lineage_record.record_lineage(tables, load_manifest(tables.store, snapshot)), indent=1
        ).encode(),
        OUT_OF_FOLD: out_of_fold_bytes(trained),
        "training.json": json.dumps(account, indent=1).encode(),
        **run_archive.archive_files(problem),
    }
    runs.put_artifacts(run_id, files)
    tags = {
        "truecourse.step": "train",
        "truecourse.key": key,
        "truecourse.snapshot": snapshot.sha256,
        "truecourse.rows": str(snapshot.rows),
        "truecourse.manifest": sha256(manifest),
        "truecourse.problem_digest": problem_digest(problem),
        "truecourse.training_digest": training_digest(problem),
        "truecourse.artifacts": json.dumps({name: sha256(data) for name, data in files.items()}),
        runs.FORM: trained.form["sentence"],
        runs.SHA256: sha256(ubj),
    }
    run = TrainedRun(problem=problem.name, run_id=run_id, snapshot=snapshot, model_sha256=sha256(ubj))
    now = datetime.now(UTC)
    runs.save_record(RunRecord(run=run, key=key, name=entry.name, note=entry.note, tags=tags, at=now))
    if in_mlflow:
        with mlflow_runs.warn_on_failure("the training run"):
            mlflow_runs.copy_artifacts(run_id, files)
            mlflow_runs.log_training(run_id, snapshot, account, tags)
    return run


def _usage() -> tuple[float, float]:
    """Return wall and processor seconds so far; the latter are of all threads of the process."""
    return time.perf_counter(), time.process_time()


def _cost_since(start: tuple[float, float]) -> dict[str, float]:
    """Return what the process used since: {"wall_seconds", "cpu_seconds", "peak_bytes": the largest memory of the
    process so far}."""
    wall, cpu = (after - before for before, after in zip(start, _usage(), strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}


def _training_document(spec: AnyModel, trained: TrainingResult) -> dict[str, Any]:
    """The content of training.json: parameters, versions, loss and learning curve."""
    return {
        "parameters": parameters(spec),
        "metric": LOSSES[trained.model.kind],
        "rounds": trained.rounds,
        "loss": trained.loss,
        "form": trained.form,
        "curve": trained.curve,
        "versions": library_versions(),
    }


def _mlflow_model(trained: TrainingResult) -> dict[str, bytes]:
    """The files of the model in MLflow's format, for `mlflow.pyfunc.load_model()`."""
    import mlflow.xgboost
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("float", name, required=False) for name in trained.model.vocabulary.booster_names])
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # it warns that pip is not installed
    get_settings().temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=get_settings().temporary) as temporary:
        folder = Path(temporary) / "model"
        mlflow.xgboost.save_model(
            trained.model.booster,
            str(folder),
            model_format="ubj",
            signature=ModelSignature(inputs, Schema([ColSpec("float")])),
            pip_requirements=[f"xgboost=={version('xgboost')}"],
        )
        return {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}
