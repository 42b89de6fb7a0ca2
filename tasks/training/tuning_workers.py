"""Worker processes of a parameter search."""

import logging
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context

from tasks.training.tuning_study import Budget, Study
from truecourse.errors import TruecourseError
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import rows_of
from truecourse.modeling.trials import Evaluator
from truecourse.problem.loader import load_problem
from truecourse.processes import exit_with_parent
from truecourse.references import Snapshot
from truecourse.settings import get_settings, override_settings
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.tuning")
_POLL = 0.5
"""Seconds between two looks at the trials."""


def evaluator_of(study: Study) -> Evaluator:
    """Read the training rows of the study's snapshot. Validation and test rows take no part in a search."""
    return Evaluator(study.problem, rows_of(load_frame(open_store(), study.snapshot), "train"))


def run_workers(count: int, study: Study, budget: Budget, watch: Callable[[], None]) -> None:
    """Make trials in `count` processes, which share the machine's threads, until the budget is used up.

    `watch`: called while they run. A process that fails is logged; its trial can be claimed again."""
    context, threads = get_context("spawn"), max(1, get_settings().threads // count)
    arguments = (study.problem.name, study.snapshot, study.groups, budget)
    workers = [
        context.Process(target=make_trials, args=arguments, name=f"tune {number}") for number in range(1, count + 1)
    ]
    try:
        with override_settings(threads=threads):
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            watch()
            time.sleep(_POLL)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()  # the trial continues where it stopped
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    for worker in workers:
        if worker.exitcode:
            log.warning("a worker process ended with status %d; its trial continues elsewhere", worker.exitcode)
    watch()


def make_trials(problem: str, snapshot: Snapshot, groups: bool, budget: Budget) -> None:
    """Make trials in a process of `multiprocessing`, until the budget is used up or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    exit_with_parent()
    study = Study(load_problem(problem), snapshot, groups)
    try:
        study.work(evaluator_of(study), budget)
    except TruecourseError as error:
        raise SystemExit(f"{error}") from None
