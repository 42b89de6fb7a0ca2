"""MLflow runs and their artifacts.

Artifacts lie under the storage root, `mlflow/<run>/artifacts/`, and are written through our own object store: whole or
not there, with its errors. MLflow reads the same objects by the experiment's artifact location.
"""

import fcntl
import getpass
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truecourse.digests import sha256
from truecourse.encoding import Vocabulary
from truecourse.errors import IntegrityError, ModelError, PlatformError
from truecourse.model import Model
from truecourse.problem import Kind, Problem
from truecourse.references import ModelVersion, Snapshot, TrainedRun
from truecourse.settings import get_settings, quiet_environment, storage_environment
from truecourse.storage import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHA256 = "truecourse.model_sha256"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's pages show an experiment's training runs and their models for this kind; without it they may show traces."""


def connect_mlflow() -> "MlflowClient":
    """A client of the settings' tracking server. Creates the sqlite database, once, where there is none.

    Raises PlatformError if the server cannot be reached."""
    quiet_environment()
    storage_environment()
    return _client(get_settings().mlflow_tracking_uri)


@lru_cache(maxsize=4)
def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _database_lock(uri):
        if is_new():
            _create_database(Path(uri.removeprefix("sqlite:///")))
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except MlflowException as error:
            cure = "start the server, or correct TRUECOURSE_MLFLOW_URI"
            raise PlatformError(f"MLflow does not answer: {error.message}", cure=cure) from None
    return client


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Two processes that both create the tables would trip over each other."""
    if not uri.startswith("sqlite:"):
        yield
        return
    home = get_settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "mlflow.lock").open("w")
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(home), cure="set TRUECOURSE_HOME"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _create_database(file: Path) -> None:
    """MLflow's tables, made aside and renamed: a process killed meanwhile leaves no half of a database, and the
    hundreds of small migrations need not wait for the disk each."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine, event

    aside = file.with_name(f"{file.name}.new")
    aside.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{aside}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    _initialize_tables(engine)
    engine.dispose()
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(file)


def is_new() -> bool:
    """No tracking database yet: nothing is in it, and no need to create one to say so."""
    uri = get_settings().mlflow_tracking_uri
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def experiment(problem: str) -> str:
    """The id of the problem's experiment. Raises ModelError if it keeps its artifacts elsewhere."""
    from mlflow.exceptions import MlflowException

    client, place = connect_mlflow(), f"{get_settings().storage_root}/mlflow"
    found = client.get_experiment_by_name(problem)
    if found is None:
        try:
            return str(client.create_experiment(problem, artifact_location=place, tags=_KIND))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(problem)
            if found is None:
                raise
    if found.artifact_location.removeprefix("file://").rstrip("/") != place:
        what = f"its experiment keeps artifacts in {found.artifact_location}, the storage root is {place}"
        raise ModelError(
            what, where=f"problem {problem}", cure="set TRUECOURSE_STORAGE as it was, or a new TRUECOURSE_HOME"
        )
    return str(found.experiment_id)


def described(problem: Problem, step: str, note: str) -> dict[str, str]:
    """Tags by which MLflow's pages say of a run what it is, whose, and from which source. `note`: Markdown."""
    commit = source_commit(problem.folder)
    return {
        "mlflow.note.content": note,
        "mlflow.user": get_settings().author or getpass.getuser(),
        "mlflow.source.name": f"truecourse run {step} --problem {problem.name}",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def source_commit(folder: Path) -> str:
    """The Git commit that a problem's folder is at; empty where it is in no repository or Git is not there."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607  wherever Git is
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def artifact_key(run_id: str, name: str) -> str:
    return f"mlflow/{run_id}/artifacts/{name}"


def artifact(run_id: str, name: str) -> bytes:
    """A run's artifact by its path, `model/vocabulary.json` or `report.json`. Raises NotFound."""
    return open_store().get(artifact_key(run_id, name))


def put_artifacts(run_id: str, files: Mapping[str, bytes]) -> None:
    store = open_store()
    for name, data in files.items():
        store.put(artifact_key(run_id, name), data)


def open_model(version: ModelVersion | TrainedRun, kind: Kind, threads: int | None = None) -> Model:
    """The model, re-hashed. Raises IntegrityError when its bytes are not the recorded ones."""
    key = artifact_key(version.run_id, "model/model.ubj")
    data = open_store().get(key)
    if sha256(data) != version.model_sha256:
        cure = f"restore the object, or `truecourse run train --problem {version.problem}`"
        raise IntegrityError("the model's bytes were changed", where=key, cure=cure)
    vocabulary = Vocabulary.from_json(artifact(version.run_id, "model/vocabulary.json"))
    return Model.load(data, vocabulary, kind, threads)


def runs(problem: str, **tags: str) -> list[Any]:
    """Finished MLflow runs with these tags (dots of a name written as __), newest first."""
    wanted = "".join(f" and tags.`{name.replace('__', '.')}` = '{value}'" for name, value in tags.items())
    found = connect_mlflow().search_runs(
        [experiment(problem)], f"attributes.status = 'FINISHED'{wanted}", order_by=["attributes.start_time DESC"]
    )
    return list(found)


def trained_run(problem: str, run_id: str | None = None) -> TrainedRun:
    """A training run by id, or the newest finished one. Raises ModelError if there is none."""
    from mlflow.exceptions import MlflowException

    cure = f"truecourse run train --problem {problem}"
    if run_id is None:
        found = [] if is_new() else runs(problem, truecourse__step="train")
        if not found:
            raise ModelError("no model was trained yet", where=f"problem {problem}", cure=cure)
        return _trained(problem, found[0])
    try:
        return _trained(problem, connect_mlflow().get_run(run_id))
    except (MlflowException, KeyError):
        raise ModelError("no such training run", where=f"run {run_id} of problem {problem}", cure=cure) from None


def _trained(problem: str, run: Any) -> TrainedRun:
    tags = run.data.tags
    snapshot = Snapshot(problem=problem, sha256=tags["truecourse.snapshot"], rows=int(tags["truecourse.rows"]))
    return TrainedRun(problem=problem, run_id=run.info.run_id, snapshot=snapshot, model_sha256=tags[SHA256])
