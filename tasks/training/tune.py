"""Search the declared parameter space, on training rows alone, with Optuna."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from prefect import task

from tasks.retry import RETRY
from tasks.training.train import tuning_key
from truecourse.errors import ModelError, NotFound
from truecourse.hashing import sha256_json
from truecourse.modeling.boosting import LOSSES, Fold, Matrices, Part, boost, parameters
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.selection import start_from_linear
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.splitting import folds
from truecourse.modeling.training import matrix_of, rows_of, with_parameters
from truecourse.problem import Problem, Range, XGBoost
from truecourse.problem.loader import load_problem, problem_document
from truecourse.references import Snapshot
from truecourse.registry import mlflow_runs
from truecourse.settings import get_settings
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.stored_format import numbered, read_numbered

log = logging.getLogger("truecourse.tuning")


@task(name="tune", **RETRY)
def search_parameters(problem: str, snapshot: Snapshot, trials: int | None = None) -> dict[str, Any]:
    """Try `trials` parameter sets (the problem's number if None), starting with the problem's own, and store the best.

    Returns {"best": {name: value}, "loss": float, "metric": str, "trials": [...]}, stored at
    tuning/<problem>/<snapshot>.json. An interrupted search continues where it stopped; a finished one is not repeated.
    Raises ModelError if the problem declares no search space."""
    spec, store = load_problem(problem), open_store()
    if not spec.model.search:
        hint = "declare one: XGBoost(search={'max_depth': Range(3, 10), ...})"
        raise ModelError("there is no search space", where=f"problem {problem}", hint=hint)
    count, identity = trials or spec.model.trials, _search_digest(spec, snapshot)
    stored = _load_result(store, snapshot)
    if stored and stored["search"] == identity and len(stored["trials"]) >= count:
        log.info("this snapshot was tuned already: %s", stored["best"])
        return stored
    study = _study(spec, identity)
    left = count - len(_finished_trials(study))
    if left > 0:
        _search(spec, study, load_frame(store, snapshot), identity, left)
    result = _result(spec, study, identity)
    store.put(tuning_key(snapshot), json.dumps(numbered(result), indent=1).encode())
    return result


def _search_digest(problem: Problem, snapshot: Snapshot) -> str:
    document = problem_document(problem)
    return sha256_json({"snapshot": snapshot.sha256, "model": document.get("model"), "split": document.get("split")})


def _load_result(store: ObjectStore, snapshot: Snapshot) -> dict[str, Any] | None:
    try:
        return read_numbered(store.get(tuning_key(snapshot)), tuning_key(snapshot))
    except NotFound:
        return None


def _study(problem: Problem, identity: str) -> Any:
    """The Optuna study of this search; it is stored in <home>/tuning, so that an interrupted search continues."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = get_settings().home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / f"{problem.name}-{identity[:16]}.log")))
    study = optuna.create_study(storage=storage, study_name=identity, load_if_exists=True)
    # The seed depends on the number of trials: a continued search must not repeat earlier draws.
    study.sampler = optuna.samplers.TPESampler(seed=problem.model.seed + len(study.trials))
    if not study.trials:
        study.enqueue_trial({name: getattr(problem.model, name) for name in problem.model.search})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # its process was killed
        if trial.params:
            study.enqueue_trial(trial.params, skip_if_exists=True)
    return study


def _finished_trials(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return list(study.get_trials(states=(TrialState.COMPLETE,)))


def _search(problem: Problem, study: Any, frame: pa.Table, identity: str, left: int) -> None:
    parent = _parent_run(problem, identity)
    evaluate = evaluator(problem, rows_of(frame, "train"))

    def objective(trial: Any) -> float:
        started = time.time()
        chosen = {name: _suggest_value(trial, name, space) for name, space in problem.model.search.items()}
        losses, rounds = evaluate(chosen)
        trial.set_user_attr("rounds", rounds)
        loss = float(np.mean(losses))
        if parent is not None:
            with mlflow_runs.warn_on_failure(f"trial {trial.number}"):
                log_trial(problem, parent, trial.number, chosen, losses, rounds, started)
        log.info("trial %d: %s %.5f with %s", trial.number, LOSSES[problem.kind], loss, chosen)
        return loss

    study.optimize(objective, n_trials=left)
    if parent is not None:
        with mlflow_runs.warn_on_failure("the end of the search"):
            mlflow_runs.connect_mlflow().set_terminated(parent, "FINISHED")


def evaluator(problem: Problem, rows: pa.Table) -> Callable[[dict[str, Any]], tuple[list[float], list[int]]]:
    """A function from parameters to each fold's loss and boosting rounds. Folds are binned once per `max_bin`."""
    vocabulary = Vocabulary.learn(problem, rows)
    matrix, labels = matrix_of(vocabulary, rows), vocabulary.labels(rows)
    masks, binned = folds(problem, rows), dict[int, list[Fold]]()

    def binned_folds(model: XGBoost) -> list[Fold]:
        if model.max_bin not in binned:
            data = Matrices(vocabulary, model.max_bin)
            parts = [
                Part(matrix[fit], labels[fit], matrix[score], labels[score], np.arange(score.sum()))
                for fit, score in masks
            ]
            binned[model.max_bin] = [data.fold(part) for part in parts]
            if model.linear:
                for part, fold in zip(parts, binned[model.max_bin], strict=True):
                    start_from_linear(problem.kind, vocabulary, model, part, *fold)
        return binned[model.max_bin]

    def evaluate(chosen: dict[str, Any]) -> tuple[list[float], list[int]]:
        model = with_parameters(problem.model, chosen)
        boosted = [boost(problem.kind, vocabulary, model, *f, progress=False) for f in binned_folds(model)]
        curves = [curve["validate"] for _, curve in boosted]
        return [min(curve) for curve in curves], [int(np.argmin(curve)) + 1 for curve in curves]

    return evaluate


def _suggest_value(trial: Any, name: str, space: Any) -> int | float | str:
    if not isinstance(space, Range):
        value: int | float | str = trial.suggest_categorical(name, list(space.values))
    elif isinstance(space.low, int) and isinstance(space.high, int):
        value = trial.suggest_int(name, space.low, space.high, log=space.log)
    else:
        value = trial.suggest_float(name, space.low, space.high, log=space.log)
    return value


def _parent_run(problem: Problem, identity: str) -> str | None:
    """The id of this search's MLflow run, created if needed; None if MLflow fails."""
    note = "A search of the parameter space on training rows alone; each trial is a run below it."
    tags = mlflow_runs.run_tags(problem, "tune", note) | {"truecourse.step": "tune", "truecourse.search": identity}
    with mlflow_runs.warn_on_failure("the search"):
        client, place = mlflow_runs.connect_mlflow(), mlflow_runs.experiment(problem.name)
        existing = client.search_runs([place], f"tags.`truecourse.search` = '{identity}'")
        if not existing:
            return str(client.create_run(place, run_name=f"tune {problem.name} {identity[:8]}", tags=tags).info.run_id)
        client.update_run(existing[0].info.run_id, status="RUNNING")
        return str(existing[0].info.run_id)
    return None


def log_trial(
    problem: Problem,
    parent: str,
    number: int,
    chosen: dict[str, Any],
    losses: list[float],
    rounds: list[int],
    at: float,
) -> None:
    from mlflow.entities import Metric, Param

    client, now = mlflow_runs.connect_mlflow(), int(time.time() * 1000)
    tags = mlflow_runs.run_tags(problem, "tune", f"Trial {number}, by cross-validation on training rows.")
    tags |= {"mlflow.parentRunId": parent, "truecourse.step": "trial"}
    run = client.create_run(
        mlflow_runs.experiment(problem.name), start_time=int(at * 1000), run_name=f"trial {number}", tags=tags
    )
    metrics = [Metric(LOSSES[problem.kind], float(np.mean(losses)), now, 0), Metric("rounds", max(rounds), now, 0)]
    metrics += [Metric(f"fold_{LOSSES[problem.kind]}", loss, now, fold) for fold, loss in enumerate(losses)]
    values = parameters(with_parameters(problem.model, chosen))
    client.log_batch(run.info.run_id, metrics=metrics, params=[Param(k, str(v)) for k, v in values.items()])
    client.set_terminated(run.info.run_id, "FINISHED")


def _result(problem: Problem, study: Any, identity: str) -> dict[str, Any]:
    finished = _finished_trials(study)
    best = min(finished, key=lambda trial: trial.value)
    trials = [{"number": t.number, "loss": t.value, "parameters": t.params, **t.user_attrs} for t in finished]
    return {
        "best": best.params, "loss": best.value, "metric": LOSSES[problem.kind], "search": identity, "trials": trials,
    }  # fmt: skip
