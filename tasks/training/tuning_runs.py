"""The logging of a running parameter search to MLflow."""

import time

from tasks.training.tuning_study import Study, TrialRecord
from truecourse.registry import mlflow_runs
from truecourse.registry.search_runs import SearchRuns

_PAUSE = 30.0
"""Seconds after a failure of MLflow, before it is called again."""


class TrialRuns:
    """Logs finished trials to MLflow, each once, though several machines may log and any may be killed."""

    def __init__(self, study: Study) -> None:
        self._problem, self._runs = study.problem, SearchRuns(study.problem.name, study.identity)
        self._logged: set[int] = set()
        self._tried = -_PAUSE

    def log(self, trials: list[TrialRecord], last: bool = False) -> None:
        """Log the trials that MLflow does not have yet. If MLflow fails, a later call tries again; `last`: at once."""
        left = [trial for trial in trials if trial.number not in self._logged]
        if not left or (time.monotonic() - self._tried < _PAUSE and not last):
            return
        self._tried = time.monotonic()
        with mlflow_runs.warn_on_failure("trials"):
            self._runs.write(self._problem, [trial.document for trial in left])
            self._logged |= {trial.number for trial in left}
            self._tried = -_PAUSE

    def end(self) -> None:
        """Mark the search's run as finished."""
        with mlflow_runs.warn_on_failure("the end of the search"):
            self._runs.write(self._problem, [], end=True)
