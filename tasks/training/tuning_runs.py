"""MLflow's runs of a parameter search: one for the search, and a child run for each finished trial."""

import time
from typing import Any

import numpy as np

from tasks.training.tuning_study import Study, TrialRecord
from truecourse.modeling.boosting import LOSSES, parameters
from truecourse.modeling.training import with_parameters
from truecourse.registry import mlflow_runs
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store

_TRIAL = "truecourse.trial"
"""Tag of a child run: the trial's number."""
_PAUSE = 30.0
"""Seconds after a failure of MLflow, before it is called again."""


class TrialRuns:
    """Logs finished trials to MLflow, each once, though several machines may log and any may be killed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._logged: set[int] = set()
        self._tried = -_PAUSE

    def log(self, trials: list[TrialRecord], last: bool = False) -> None:
        """Log the trials that MLflow does not have yet. If MLflow fails, a later call tries again; `last`: at once."""
        left = [trial for trial in trials if trial.number not in self._logged]
        if not left or (time.monotonic() - self._tried < _PAUSE and not last):
            return
        self._tried = time.monotonic()
        with mlflow_runs.warn_on_failure("trials"), locked(open_store(), f"tuning/{self._study.name}-mlflow"):
            parent = self._parent()
            logged = self._logged_trials(parent)
            for trial in left:
                if trial.number not in logged:
                    self._log_trial(parent, trial)
                self._logged.add(trial.number)
            self._tried = -_PAUSE

    def end(self) -> None:
        """Mark the search's run as finished."""
        with mlflow_runs.warn_on_failure("the end of the search"):
            mlflow_runs.connect_mlflow().set_terminated(self._parent(), "FINISHED")

    def _parent(self) -> str:
        """The id of the search's run, created if needed."""
        study, client = self._study, mlflow_runs.connect_mlflow()
        place = mlflow_runs.experiment(study.problem.name)
        existing = client.search_runs([place], f"tags.`truecourse.search` = '{study.identity}'")
        if existing:
            return str(existing[0].info.run_id)
        note = "A search of the parameter space on training rows alone; each trial is a run below it."
        tags = mlflow_runs.run_tags(study.problem, "tune", note)
        tags |= {"truecourse.step": "tune", "truecourse.search": study.identity}
        name = f"tune {study.problem.name} {study.identity[:8]}"
        return str(client.create_run(place, run_name=name, tags=tags).info.run_id)

    def _logged_trials(self, parent: str) -> set[int]:
        """The numbers of the trials that have a run. A run that is not finished was interrupted, and is deleted."""
        client = mlflow_runs.connect_mlflow()
        place = mlflow_runs.experiment(self._study.problem.name)
        found: set[int] = set()
        for run in _all_runs(client, place, f"tags.`mlflow.parentRunId` = '{parent}'"):
            if _TRIAL not in run.data.tags:
                continue
            if run.info.status == "FINISHED":
                found.add(int(run.data.tags[_TRIAL]))
            else:
                client.delete_run(run.info.run_id)
        return found

    def _log_trial(self, parent: str, trial: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        problem, loss = self._study.problem, LOSSES[self._study.problem.kind]
        client, now = mlflow_runs.connect_mlflow(), int(time.time() * 1000)
        ended = ", pruned" if trial.is_pruned else ""
        note = f"Trial {trial.number}, by cross-validation on training rows{ended}."
        tags = mlflow_runs.run_tags(problem, "tune", note)
        tags |= {"mlflow.parentRunId": parent, "truecourse.step": "trial", _TRIAL: str(trial.number)}
        tags |= {"truecourse.state": trial.document["state"], "truecourse.dropped": ", ".join(trial.dropped)}
        run = client.create_run(
            mlflow_runs.experiment(problem.name), start_time=int(trial.began * 1000),
            run_name=f"trial {trial.number}", tags=tags,
        )  # fmt: skip
        metrics = [Metric(loss, float(np.mean(trial.losses)), now, 0), Metric("rounds", max(trial.rounds), now, 0)]
        metrics += [Metric(f"fold_{loss}", value, now, fold) for fold, value in enumerate(trial.losses)]
        values = parameters(with_parameters(problem.model, trial.parameters))
        client.log_batch(run.info.run_id, metrics=metrics, params=[Param(k, str(v)) for k, v in values.items()])
        client.set_terminated(run.info.run_id, "FINISHED", end_time=int(trial.ended * 1000))


def _all_runs(client: Any, place: str, query: str) -> list[Any]:
    found, token = [], None
    while True:
        page = client.search_runs([place], query, max_results=1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found
