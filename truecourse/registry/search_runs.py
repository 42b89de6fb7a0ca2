"""MLflow's runs of parameter searches: one for a search, and a child run for each of its finished trials."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from truecourse.modeling.boosting import LOSSES, parameters
from truecourse.problem import Problem
from truecourse.registry import mlflow_runs
from truecourse.settings import get_settings
from truecourse.storage.locks import locked
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.stored_format import read_numbered

RECENT = 10
"""The number of newest stored searches that are compared with MLflow."""
_SEARCH, _TRIAL = "truecourse.search", "truecourse.trial"
"""Tags: the digest of a search, on its run; the number of a trial, on a child run."""
Trial = Mapping[str, Any]
"""A finished trial as it is stored: number, state, parameters, dropped, losses, rounds, and the Unix times began and
ended."""


@dataclass(frozen=True)
class SearchRuns:
    """The runs of one search. `problem`: its name. `identity`: the digest of the search."""

    problem: str
    identity: str

    def write(self, problem: Problem, trials: Iterable[Trial], *, end: bool = False) -> None:
        """Log the trials that MLflow does not have; deleted runs are restored. Raises MirrorError if MLflow fails.

        `end`: mark the search's run as finished."""
        with locked(open_store(), f"tuning/{self.problem}-{self.identity[:16]}-mlflow"):
            parent = self._parent(problem)
            logged = self._logged(parent)
            for trial in trials:
                if trial["number"] not in logged:
                    _log(problem, parent, trial)
            if end:
                mlflow_runs.connect_mlflow().set_terminated(parent, "FINISHED")

    def missing(self, trials: Iterable[Trial]) -> list[int]:
        """Return the numbers of the trials that MLflow does not show. Nothing is written."""
        client = mlflow_runs.connect_mlflow()
        place = client.get_experiment_by_name(self.problem)
        found = self._runs(place.experiment_id, _SEARCH, self.identity) if place else []
        shown: Collection[int] = ()
        if found and found[0].info.lifecycle_stage == "active":
            children = self._runs(place.experiment_id, "mlflow.parentRunId", found[0].info.run_id)
            shown = {int(run.data.tags[_TRIAL]) for run in children if _is_complete(run)}
        return [trial["number"] for trial in trials if trial["number"] not in shown]

    def _runs(self, place: str, tag: str, value: str) -> list[Any]:
        """Return the runs with a tag, active ones first, and deleted ones."""
        from mlflow.entities import ViewType

        client, found, token = mlflow_runs.connect_mlflow(), list[Any](), None
        while True:
            query = f"tags.`{tag}` = '{value}'"
            page = client.search_runs([place], query, ViewType.ALL, max_results=1000, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                return sorted(found, key=lambda run: run.info.lifecycle_stage != "active")

    def _parent(self, problem: Problem) -> str:
        """Return the id of the search's run, created or restored if needed."""
        client, place = mlflow_runs.connect_mlflow(), mlflow_runs.experiment(self.problem)
        if found := self._runs(place, _SEARCH, self.identity):
            if found[0].info.lifecycle_stage == "deleted":
                client.restore_run(found[0].info.run_id)
            return str(found[0].info.run_id)
        note = "A search of the parameter space on training rows alone; each trial is a run below it."
        tags = mlflow_runs.run_tags(problem, "tune", note)
        tags |= {"truecourse.step": "tune", _SEARCH: self.identity}
        name = f"tune {self.problem} {self.identity[:8]}"
        return str(client.create_run(place, run_name=name, tags=tags).info.run_id)

    def _logged(self, parent: str) -> set[int]:
        """Return the numbers of the trials that have a run. Complete runs that were deleted are restored; a run that is
        not finished was interrupted, and is deleted."""
        client, found = mlflow_runs.connect_mlflow(), set[int]()
        for run in self._runs(mlflow_runs.experiment(self.problem), "mlflow.parentRunId", parent):
            number, active = run.data.tags.get(_TRIAL), run.info.lifecycle_stage == "active"
            if number is None or int(number) in found:
                continue
            if run.info.status != "FINISHED":
                if active:
                    client.delete_run(run.info.run_id)
                continue
            if not active:
                client.restore_run(run.info.run_id)
            found.add(int(number))
        return found


def _log(problem: Problem, parent: str, trial: Trial) -> None:
    from mlflow.entities import Metric, Param

    loss = LOSSES[problem.kind]
    client, now = mlflow_runs.connect_mlflow(), int(time.time() * 1000)
    ended = ", pruned" if trial["state"] == "pruned" else ""
    note = f"Trial {trial['number']}, by cross-validation on training rows{ended}."
    tags = mlflow_runs.run_tags(problem, "tune", note)
    tags |= {"mlflow.parentRunId": parent, "truecourse.step": "trial", _TRIAL: str(trial["number"])}
    tags |= {"truecourse.state": trial["state"], "truecourse.dropped": ", ".join(trial["dropped"])}
    run = client.create_run(
        mlflow_runs.experiment(problem.name), start_time=int(trial["began"] * 1000),
        run_name=f"trial {trial['number']}", tags=tags,
    )  # fmt: skip
    losses = trial["losses"]
    metrics = [Metric(loss, float(np.mean(losses)), now, 0), Metric("rounds", max(trial["rounds"]), now, 0)]
    metrics += [Metric(f"fold_{loss}", value, now, fold) for fold, value in enumerate(losses)]
    values = parameters(problem.model) | trial["parameters"]
    client.log_batch(run.info.run_id, metrics=metrics, params=[Param(k, str(v)) for k, v in values.items()])
    client.set_terminated(run.info.run_id, "FINISHED", end_time=int(trial["ended"] * 1000))


def _is_complete(run: Any) -> bool:
    return _TRIAL in run.data.tags and run.info.lifecycle_stage == "active" and run.info.status == "FINISHED"


def stored_searches(store: ObjectStore, problem: str) -> Iterator[tuple[SearchRuns, Sequence[Trial]]]:
    """Yield the newest stored searches of a problem, each with the trials that MLflow should show.

    The runs of older trials are removed in MLflow by `truecourse gc` (TRUECOURSE_MODEL_RETENTION)."""
    days = get_settings().model_retention
    since = (datetime.now(UTC) - timedelta(days=days)).timestamp() if days else 0.0
    stored = sorted(store.objects(f"tuning/{problem}/"), key=lambda one: one.modified)
    for one in stored[-RECENT:]:
        document = read_numbered(store.get(one.key), one.key)
        at = one.modified.timestamp()  # a release before this one stored no times
        trials = [{"began": at - trial["seconds"], "ended": at, **trial} for trial in document["trials"]]
        if shown := [trial for trial in trials if trial["ended"] >= since]:
            yield SearchRuns(problem, document["search"]), shown
