"""Search the declared parameter space, and feature groups on request, on training rows alone, with Optuna."""

import json
import logging
import time
from typing import Any

from prefect import task

from tasks.retry import RETRY
from tasks.training.train import tuning_key
from tasks.training.tuning_runs import TrialRuns
from tasks.training.tuning_study import Budget, Study, TrialRecord, best_of
from tasks.training.tuning_workers import evaluator_of, run_workers
from truecourse.errors import ModelError, NotFound, SettingsError
from truecourse.evaluation.tuning_gain import measure_gain
from truecourse.modeling.boosting import LOSSES
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import searched_model, with_parameters
from truecourse.problem.loader import load_problem
from truecourse.references import Snapshot
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.stored_format import numbered, read_numbered
from truecourse.wording import counted

log = logging.getLogger("truecourse.tuning")
_POLL = 1.0
"""Seconds between two looks at the trials of other machines."""


@task(name="tune", **RETRY)
def search_parameters(
    problem: str,
    snapshot: Snapshot,
    trials: int | None = None,
    minutes: float | None = None,
    workers: int = 1,
    feature_groups: bool = False,
) -> dict[str, Any]:
    """Try parameter sets, starting with the problem's own, and store the best.

    The search ends after `trials` in all (the problem's number if neither is given), or when `minutes` have passed.
    Returns {"best": {name: value}, "loss": float, "metric": str, "trials": [...], "gain": {...}, ...}, stored at
    tuning/<problem>/<snapshot>.json. An interrupted search continues where it stopped; a finished one is not repeated.
    Raises ModelError if the problem declares no search space."""
    began, spec, store = time.time(), load_problem(problem), open_store()
    model = searched_model(spec)
    if not model.search:
        hint = "declare one: XGBoost(search={'max_depth': Range(3, 10), ...})"
        raise ModelError("there is no search space", where=f"problem {problem}", hint=hint)
    study = Study(spec, snapshot, feature_groups)
    if feature_groups and len(study.members) < 2:
        hint = "leave out feature_groups, or add views"
        raise ModelError("all features are in one group", where=f"problem {problem}", hint=hint)
    budget = _budget(model.trials, trials, minutes, began)
    if workers < 1:
        raise SettingsError(f"{workers} given, 1 or more needed", where="workers", hint="give 2 for two processes")
    stored = _load_result(store, snapshot)
    if stored and stored["search"] == study.identity and len(stored["trials"]) >= (budget.trials or float("inf")):
        log.info("this snapshot was tuned already: %s", stored["best"])
        return stored
    _Search(study, budget).run(workers)
    result = _result(study, store)
    store.put(tuning_key(snapshot), json.dumps(numbered(result), indent=1).encode())
    return result


def _budget(declared: int, trials: int | None, minutes: float | None, began: float) -> Budget:
    for name, value in (("trials", trials), ("minutes", minutes)):
        if value is not None and value <= 0:
            raise SettingsError(
                f"{value:g} given, more than 0 needed", where=name, hint="give 20 trials, or 30 minutes"
            )
    if trials is None and minutes is None:
        trials = declared
    return Budget(trials, None if minutes is None else began + 60 * minutes, began)


def _load_result(store: ObjectStore, snapshot: Snapshot) -> dict[str, Any] | None:
    try:
        return read_numbered(store.get(tuning_key(snapshot)), tuning_key(snapshot))
    except NotFound:
        return None


class _Search:
    """A search as one process sees it: it makes trials here or in worker processes, and logs the finished ones."""

    def __init__(self, study: Study, budget: Budget) -> None:
        self._study, self._budget = study, budget
        self._runs = TrialRuns(study)
        self._reported: set[int] = set()

    def run(self, workers: int) -> None:
        study = self._study
        study.open()
        self._reported |= {one.number for one in study.finished()}
        if self._reported:
            log.info("the search continues after %s", counted(len(self._reported), "trial"))
        self._watch()
        if workers > 1:
            run_workers(workers, study, self._budget, self._watch)
        evaluator = None
        while (trial := study.claim(self._budget)) is not None or self._others_run():
            if trial is None:
                time.sleep(_POLL)
                continue
            evaluator = evaluator or evaluator_of(study)
            study.make(trial, evaluator)
            self._watch()
        self._watch(last=True)
        self._runs.end()

    def _others_run(self) -> bool:
        return bool(self._study.running()) and not self._budget.is_over

    def _watch(self, last: bool = False) -> None:
        """Log the trials that have finished since the last call."""
        trials = self._study.finished()
        for trial in trials:
            if trial.number not in self._reported:
                self._report(trial, [one for one in trials if one.number in self._reported or one is trial])
                self._reported.add(trial.number)
        self._runs.log(trials, last)

    def _report(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        metric = LOSSES[self._study.problem.kind]
        of = f" of {self._budget.trials}" if self._budget.trials else ""
        state = " (pruned)" if trial.is_pruned else ""
        complete = [one for one in finished if not one.is_pruned]
        best = best_of(complete) if complete else None
        so_far = f"; best so far {best.loss:.5f}, trial {best.number}" if best else ""
        text = f"{len(finished)}{of} made: trial {trial.number} {metric} {trial.loss:.5f}{state}{so_far}"
        log.info("%s", text, extra={"share": self._budget.share(len(finished))})


def _result(study: Study, store: ObjectStore) -> dict[str, Any]:
    """The stored document. `best`: of the trials with all features, which `train` uses. `proposed`: the best one
    without some feature groups, if it is better; else None."""
    spec, trials, frame = study.problem, study.finished(), load_frame(store, study.snapshot)
    best, overall = best_of([one for one in trials if not one.dropped]), best_of(trials)
    log.info("measuring the chosen parameters on validation rows")
    gain = measure_gain(spec, frame, with_parameters(study.model, best.parameters))
    proposed = None
    if overall is not best:
        unused = [name for group in overall.dropped for name in study.members[group]]
        proposed = overall.document | {
            "gain": measure_gain(spec, frame, with_parameters(study.model, overall.parameters), unused)
        }
    return {
        "best": best.parameters, "loss": best.loss, "metric": LOSSES[spec.kind], "search": study.identity,
        "chosen": best.number, "default": study.default, "gain": gain, "proposed": proposed,
        "importance": study.importance(),
        "trials": [one.document for one in trials],
    }  # fmt: skip
