"""Searches of parameters: the speed of two worker processes, and 50 kills.

Limits: two workers make 1.7 times as many trials a second as one with the same number of threads. On a busy machine
seconds mean little; CPU seconds show what the second process costs: two cores that do at most 2/1.7 of the work are
1.7 times as fast. Two workers make other trials than one, so the seconds also differ with the parameters. After 50
kills at random moments, no trial is missing, none was made twice, and all are as in a search without kills.
"""

import json
import multiprocessing
import random
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, measure
from benchmarks.pipeline.tables import TABLES
from tasks.planning import stages
from tasks.training.tuning_study import Budget, Study, TrialRecord
from tasks.training.tuning_workers import evaluator_of, make_trials, run_workers
from truecourse.authoring.scaffold.create import scaffold
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings, override_settings

TABLE = "diamonds"
_KILLED = "wages"
"""A small table, whose trials take a fraction of a second: kills come at every step."""
_FASTER = 1.7


def rows(quick: bool) -> list[Row]:
    trials, kills = (6, 5) if quick else (40, 50)
    measured = []
    with tempfile.TemporaryDirectory(prefix="truecourse-bench-") as folder:
        one, two = (_measured(Path(folder), TABLE, "search", trials=trials, workers=workers) for workers in (1, 2))
        killed = _measured(Path(folder), _KILLED, "kill", kills=kills).result
    what, reference = f"{TABLE}: {trials} trials by two workers of one thread", "one worker of one thread"
    measured.append(
        Row(what=what, value=two.seconds, unit="s", reference=one.seconds, reference_is=reference, inverse=True,
            limit=_FASTER, sense="at least")
    )  # fmt: skip
    measured.append(
        Row(what=what, value=two.cpu, unit="CPU s", reference=one.cpu, reference_is=reference, limit=2 / _FASTER)
    )
    what = f"{_KILLED}: {killed['trials']} trials, {killed['kills']} kills"
    parts = ("missing", "running", "different")
    return measured + [Row(what=f"{what}: {one}", value=killed[one], unit="trials", limit=0) for one in parts]


def _measured(folder: Path, table: str, function: str, **arguments: Any) -> Any:
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "problems").mkdir()
    return measure(
        f"benchmarks.pipeline.tuning:{function}", place / "home", place / "problems", table=table, **arguments
    )


def _prepared(table: str) -> Study:
    """Write a problem for the table with `init`, and open the search that it declares."""
    from tasks.training.build_snapshot import take_snapshot

    scaffold(table, TABLES[table].path, TABLES[table].label)
    problem = load_problem(table)
    stages.ingest(problem)
    stages.validate(problem)
    study = Study(problem, take_snapshot.fn(table, None))
    study.open()
    return study


def search(table: str, trials: int, workers: int) -> Callable[[], None]:
    study = _prepared(table)

    def run() -> None:
        with override_settings(threads=workers):
            run_workers(workers, study, Budget(trials), lambda: None)

    return run


def kill(table: str, kills: int) -> Callable[[], dict[str, Any]]:
    return partial(_kill, _prepared(table), kills)


def _kill(study: Study, kills: int) -> dict[str, Any]:
    """Kill processes of a search at random moments, finish it, and compare it with the same search without kills."""
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(["tasks.training.tuning_workers", "optuna", "xgboost"])
    trials, done = 3 * kills, 0
    while done < kills and len(study.finished()) < trials:
        process = context.Process(target=make_trials, args=(study.problem.name, study.snapshot, False, Budget(trials)))
        process.start()
        process.join(random.uniform(0, 3))  # noqa: S311
        done += process.is_alive()
        process.kill()
        process.join()
    evaluator = evaluator_of(study)
    study.work(evaluator, Budget(trials))
    with override_settings(tuning_storage=f"sqlite:///{get_settings().home / 'without-kills.db'}"):
        reference = Study(study.problem, study.snapshot)
        reference.open()
        reference.work(evaluator, Budget(trials))
    found, expected = ({one.number: _content(one) for one in made.finished()} for made in (study, reference))
    return {
        "trials": trials,
        "kills": done,
        "missing": len(set(expected) - set(found)),
        "running": len(study.running()),
        "different": sum(content != expected.get(number) for number, content in found.items()),
    }


def _content(trial: TrialRecord) -> str:
    """What does not depend on the clock."""
    document = {name: value for name, value in trial.document.items() if name != "seconds"}
    return json.dumps(document, sort_keys=True)
