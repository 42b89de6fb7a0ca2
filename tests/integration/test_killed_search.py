"""A search of parameters whose processes are killed: no trial is lost, and none is made twice."""

import multiprocessing
import random
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tasks.training.tuning_study import Study
from tests.tuned_shops import frame, make_trials, study_of, trials_of


def test_killed_at_any_moment_a_search_loses_no_trial_and_makes_none_twice(
    home: Path, configure: Callable[..., None], tmp_path: Path
) -> None:
    rows, count = frame("binary", False), 14
    reference = trials_of(study_of("binary", False, rows), count)
    configure(home=tmp_path / "killed")
    study = study_of("binary", False, rows)
    assert kill_often(study, tmp_path / "killed", count, kills=4) >= 1
    assert trials_of(study, count) == reference
    assert study.running() == []


def kill_often(study: Study, home: Path, trials: int, kills: int) -> int:
    """Kill processes of the search with SIGKILL, each after a random time of work; the number of kills."""
    study.open()
    context, done = multiprocessing.get_context("forkserver"), 0
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(["tests.tuned_shops", "optuna", "xgboost"])
    while done < kills and len(study.finished()) < trials - 2:
        ready = context.Event()
        process = context.Process(target=make_trials, args=(home, study.snapshot, trials, ready))
        process.start()
        assert ready.wait(120)
        process.join(random.uniform(0, 0.2))
        done += process.is_alive()
        process.kill()
        process.join()
    return done
