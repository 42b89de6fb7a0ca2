"""A small search on generated frames, of each kind of problem, and a process that makes its trials."""

from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.training.tuning_study import Budget, Study, TrialRecord
from tasks.training.tuning_workers import evaluator_of
from truecourse.modeling.snapshot import Manifest, save, serialize
from truecourse.problem import Choice, Entity, Files, Float, Label, Problem, RandomSplit, Range, Table, Text, TimeSplit

from truecourse.problem import View, XGBoost, days  # isort: skip
from truecourse.problem.definition import Kind
from truecourse.references import Snapshot
from truecourse.settings import override_settings
from truecourse.storage.object_store import open_store

START, MONTHS, ROWS = datetime(2023, 1, 1, tzinfo=UTC), 12, 900
FEATURES = {"main": Float(), "useful": Float(), "shade": Text(), "noise": Float()}


def shops(kind: Kind, monthly: bool) -> Problem:
    """Sales with decisions at the first of each month, whose labels are known 20 days later; or without time."""
    history = View("history", sql="h.sql", entity="shop", features={"useful": Float(), "shade": Text()})
    return Problem(
        "shops",
        kind=kind,
        tables=[Table("sales", source=Files("sales.csv"), columns={"x": Float()})],
        spine="spine.sql",
        label=Label(sql="label.sql", closes_after=days(20)),
        request={"main": Float(), "noise": Float()},
        entities=[Entity("shop")],
        views=[history],
        split=TimeSplit(train_until="2023-09-01", validate_until="2023-11-01") if monthly else RandomSplit(),
        model=XGBoost(
            rounds=12,
            early_stopping_rounds=4,
            learning_rate=0.3,
            search={"max_depth": Choice([2, 3, 4]), "learning_rate": Range(0.1, 0.9, log=True), "gamma": Range(0, 2)},
        ),
    )


def frame(kind: Kind, monthly: bool, seed: int = 0) -> pa.Table:
    """Rows whose label depends on `main`, `useful` and `shade`."""
    random = np.random.default_rng(seed)
    main, useful, noise = random.normal(size=(3, ROWS))
    shade = random.integers(0, 3, ROWS)
    value = main + 0.7 * useful + 0.5 * (shade == 1) + random.normal(scale=0.5, size=ROWS)
    labels = {
        "regression": pa.array(value),
        "binary": pa.array((value > 0).astype(np.int64)),
        "multiclass": pa.array(np.digitize(value, [-0.5, 0.6])).cast(pa.string()),
    }
    month = np.arange(ROWS) * MONTHS // ROWS
    side = np.where(month < 8, "train", np.where(month < 10, "validate", "test"))
    if not monthly:
        side = random.permutation(side)
    columns = {
        "id": pa.array([f"r{n}" for n in range(ROWS)]),
        "main": pa.array(main),
        "useful": pa.array(useful),
        "shade": pa.array([("red", "blue", "green")[n] for n in shade]),
        "noise": pa.array(noise),
        "label": labels[kind],
        "split": pa.array(side.tolist()),
    }
    if monthly:
        decided = [datetime(2023, 1 + int(m), 1, tzinfo=UTC) for m in month]
        columns["decision_time"] = pa.array(decided)
        columns["known_at"] = pa.array([at + timedelta(days=20) for at in decided])
    return pa.table(columns)


def study_of(kind: Kind, monthly: bool, rows: pa.Table, *, groups: bool = False, expiry: float = 60.0) -> Study:
    """Store the rows as a snapshot in the current home, and open the search on it."""
    manifest = Manifest(
        problem="shops", problem_digest="", document={}, until=None, rows={}, columns={}, inputs=()
    )  # fmt: skip
    return Study(shops(kind, monthly), save(open_store(), serialize([rows]), manifest), groups, expiry)


def make_trials(home: Path, snapshot: Snapshot, trials: int, ready: Event) -> None:
    """In a process of its own: make the trials of the search without time."""
    with override_settings(home=home, threads=1):
        study = Study(shops("binary", False), snapshot)
        evaluator = evaluator_of(study)
        study.open()
        ready.set()
        study.work(evaluator, Budget(trials))


def trials_of(study: Study, count: int) -> list[tuple[Any, ...]]:
    """Make the trials in this process, and return what does not depend on the clock."""
    study.open()
    study.work(evaluator_of(study), Budget(count))
    return without_times(study.finished())


def without_times(trials: list[TrialRecord]) -> list[tuple[Any, ...]]:
    return [(one.number, one.parameters, one.dropped, one.losses, one.rounds) for one in trials]
