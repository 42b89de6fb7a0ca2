"""MLflow: a client that raises MirrorError, and the logging of training runs for people to browse.

MLflow holds only copies; the originals are in truecourse/registry/runs.py and truecourse/registry/versions.py. Copies
of a run's artifacts are below the storage root at `mlflow/<MLflow's run>/artifacts/`.
"""

import fcntl
import getpass
import json
import logging
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from truecourse.compat import mlflow_tables
from truecourse.errors import MirrorError, ModelError, PlatformError
from truecourse.problem import Problem
from truecourse.references import Snapshot
from truecourse.registry.relocation import relocate_artifacts
from truecourse.settings import get_settings, quiet_environment, storage_environment
from truecourse.storage.object_store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("truecourse.mlflow")
RUN = "truecourse.run"
"""Tag of MLflow's runs: the id of our run, where it differs from MLflow's."""
PATIENCE = 5.0
"""Seconds to wait for a response of MLflow, or for a lock on its database."""
_QUIET = 30.0
"""Seconds for which this process does not call a server again that did not respond."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's pages show an experiment's training runs and their models for this kind; without it they may show traces."""
_START_HINT = "start MLflow, or correct TRUECOURSE_MLFLOW_URI; then run `truecourse mirror write`"
CURVE_POINTS = 200
unreachable_until: dict[str, float] = {}


class _Client:
    """An MlflowClient whose methods raise MirrorError."""

    def __init__(self, uri: str, client: object) -> None:
        self._uri = uri
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            _require_answer(self._uri)
            with _failures(self._uri):
                return found(*arguments, **named)

        return call


@contextmanager
def _failures(uri: str) -> Iterator[None]:
    """Convert exceptions of MLflow, requests and SQLAlchemy to MirrorError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        code = str(error.error_code)
        lines = str(error.message).strip().splitlines() or [type(error).__name__]
        if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            unreachable_until[uri] = time.monotonic() + _QUIET
        hint = "`truecourse mirror show` lists differences from our records"
        raise MirrorError(f"MLflow: {lines[0][:200]}", where=_place(uri), hint=hint, code=code) from None
    except (RequestException, SQLAlchemyError, OSError) as error:
        unreachable_until[uri] = time.monotonic() + _QUIET
        raise MirrorError(
            f"MLflow does not answer: {type(error).__name__}", where=_place(uri), hint=_START_HINT
        ) from None


def _place(uri: str) -> str:
    """Remove user and password from a URI."""
    place = urlsplit(uri)
    return f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"


def _require_answer(uri: str) -> None:
    """Raise MirrorError immediately if MLflow did not respond recently: its client would retry for minutes."""
    if time.monotonic() < unreachable_until.get(uri, 0.0):
        raise MirrorError("MLflow does not answer", where=_place(uri), hint=_START_HINT)


def connect_mlflow() -> "MlflowClient":
    """Connect to the configured tracking server; the client's methods raise MirrorError.

    Creates the sqlite database if it does not exist. Raises MirrorError if server or database cannot be reached."""
    quiet_environment()
    storage_environment()
    uri = get_settings().mlflow_tracking_uri
    _require_answer(uri)
    if is_new():
        _client.cache_clear()  # its database was deleted meanwhile
    try:
        _probe(uri)
        return _client(uri)
    except MirrorError as error:
        if not error.code:
            unreachable_until[uri] = time.monotonic() + _QUIET
        raise


def _probe(uri: str) -> None:
    """Raise MirrorError if the server or database is not usable: MLflow's client retries for minutes, and with a
    damaged database for half an hour."""
    import requests

    try:
        if urlsplit(uri).scheme in ("http", "https"):
            with suppress(requests.exceptions.SSLError):  # MLflow's client has its own certificate settings
                requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE, allow_redirects=False, stream=True).close()
        elif uri.startswith("sqlite:///") and not is_new():
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=PATIENCE)) as database:
                database.execute(f"SELECT count(*) FROM {mlflow_tables.REVISION_TABLE}").fetchall()  # noqa: S608
    except requests.exceptions.RequestException as error:
        what = f"MLflow does not answer: {type(error).__name__}"
        raise MirrorError(what, where=_place(uri), hint=_START_HINT) from None
    except (OSError, ValueError, sqlite3.Error) as error:
        hint = "wait until it is unlocked, or move a damaged one away; then run `truecourse mirror write`"
        raise MirrorError(f"MLflow's database cannot be read: {error}", where=_place(uri), hint=hint) from None


@lru_cache(maxsize=4)
def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("mlflow.store.db.utils", "CRITICAL")):
        logging.getLogger(name).setLevel(level)
    with _database_lock(uri), _failures(uri):
        if is_new():
            mlflow_tables.create(Path(uri.removeprefix("sqlite:///")))
        elif uri.startswith("sqlite:///"):
            relocate_artifacts(Path(uri.removeprefix("sqlite:///")), get_settings().storage_root)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return cast("MlflowClient", _Client(uri, client))


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Lock the sqlite database, so that only one process creates its tables."""
    if not uri.startswith("sqlite:"):
        yield
        return
    home = get_settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "mlflow.lock").open("w")
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(home), hint="set TRUECOURSE_HOME"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_new() -> bool:
    """Return whether the sqlite tracking database does not exist yet, without creating it."""
    uri = get_settings().mlflow_tracking_uri
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def experiment(problem: str) -> str:
    """Return the id of the problem's experiment; create it if needed.

    Raises ModelError if its artifacts are elsewhere, MirrorError if it was deleted."""
    client, place = connect_mlflow(), f"{get_settings().storage_root}/mlflow"
    found = client.get_experiment_by_name(problem)
    if found is None:
        try:
            return str(client.create_experiment(problem, artifact_location=place, tags=_KIND))
        except MirrorError:  # another process was first
            found = client.get_experiment_by_name(problem)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        what = "its experiment was deleted in MLflow"
        raise MirrorError(what, where=problem, hint="truecourse mirror write", code="DELETED")
    if found.artifact_location.removeprefix("file://").rstrip("/") != place:
        what = f"its experiment keeps artifacts in {found.artifact_location}, the storage root is {place}"
        raise ModelError(
            what, where=f"problem {problem}", hint="restore TRUECOURSE_STORAGE, or set a new TRUECOURSE_HOME"
        )
    return str(found.experiment_id)


def run_tags(problem: Problem, step: str, note: str) -> dict[str, str]:
    """Build the tags with a run's description, user and source for MLflow's pages. `note`: Markdown."""
    commit = source_commit(problem.folder)
    return {
        "mlflow.note.content": note,
        "mlflow.user": get_settings().author or getpass.getuser(),
        "mlflow.source.name": f"truecourse run {step} --problem {problem.name}",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def source_commit(folder: Path) -> str:
    """Return the Git commit of a problem's folder; empty without a repository or Git."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607  wherever Git is
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def begin_run(problem: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
    """Create a run in MLflow. Returns its id and True, or if MLflow does not answer an id of our own and False."""
    try:
        client, place = connect_mlflow(), experiment(problem)
        return str(client.create_run(place, run_name=name, tags=dict(tags)).info.run_id), True
    except MirrorError as error:
        log.warning("the run is not shown in MLflow: %s", error)
        return uuid.uuid4().hex, False


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Log a MirrorError as a warning: our record decides, and `truecourse mirror write` can copy it to MLflow later."""
    try:
        yield
    except MirrorError as error:
        log.warning("MLflow does not show %s yet; run `truecourse mirror write` later: %s", what, error.what)


def run_artifact_key(run_id: str, name: str) -> str:
    """Return the key under which MLflow looks for an artifact of its run."""
    return f"mlflow/{run_id}/artifacts/{name}"


def copy_artifacts(run_id: str, files: Mapping[str, bytes]) -> None:
    store = open_store()
    for name, data in files.items():
        store.put(run_artifact_key(run_id, name), data)


def log_training(
    run_id: str, snapshot: Snapshot, account: Mapping[str, Any], tags: Mapping[str, str], status: str = "FINISHED"
) -> None:
    """Log a training to MLflow and end the run with `status`. `account`: the run's training.json."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client, now = connect_mlflow(), int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, step) for name, value, step in training_metrics(account)],
        params=[Param(name, value) for name, value in logged_parameters(account).items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    # MLflow keeps 36 characters of a digest; the full one is in the source, the name and the tag.
    source = {"key": snapshot.frame_key, "sha256": snapshot.sha256}
    dataset = Dataset(f"{snapshot.problem} {snapshot.sha256}", snapshot.sha256[:36], "snapshot", json.dumps(source))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.set_terminated(run_id, status)


def training_metrics(account: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Return names, values and steps of the metrics that MLflow shows for a training.json."""
    loss = account["metric"]
    metrics = [(f"validate_{loss}", account["loss"], account["rounds"]), ("rounds", account["rounds"], 0)]
    for side, values in account["curve"].items():
        steps = range(0, len(values), -(-len(values) // CURVE_POINTS))
        metrics += [(f"curve_{side}_{loss}", values[step], step) for step in steps]
    return metrics


def logged_parameters(account: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in account["parameters"].items()}


def evaluation_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that MLflow shows for a report.json, by name."""
    prefixes = {"model": "test", "constant": "constant", "linear": "linear"}
    figures = {
        f"{prefixes[name]}_{metric}{'' if part == 'value' else '_' + part}": figure[part]
        for name, metrics in report["metrics"].items()
        for metric, figure in metrics.items()
        for part in (("value", "low", "high") if name == "model" else ("value",))
    }
    return {name: value for name, value in figures.items() if value is not None}


def log_evaluation(run_id: str, report: Mapping[str, Any]) -> None:
    """Log the metrics of a report.json to MLflow."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in evaluation_metrics(report).items()]
    connect_mlflow().log_batch(run_id, metrics=metrics)
