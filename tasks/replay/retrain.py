"""Retraining inside the replay: snapshot, training, judging, registry and gates, as of a simulated moment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.features.decision_frame import feature_versions
from tasks.release.register import register_model
from tasks.training.evaluate import judge_model
from tasks.training.snapshot import build_snapshot
from tasks.training.train import train_model
from truecourse.data.sql import clean_versions
from truecourse.modeling.rolling_split import problem_at
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables


@dataclass(frozen=True)
class Retrained:
    """What a retraining came to. `version`: registered, and `promoted` or not; `gates`: the verdicts."""

    at: datetime
    version: ModelVersion
    promoted: bool
    gates: list[dict[str, Any]]
    rows: int


def fit(problem: Problem, tables: Tables, at: datetime) -> TrainedRun:
    """Train on what is known at `at` (UTC). Whoever does it before that moment, but after the last delivery before it,
    gets the same model."""
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    until = at.replace(tzinfo=None)
    snapshot = build_snapshot(problem_at(problem, at), tables, clean=clean, features=features, until=until)
    return train_model.fn(problem.name, snapshot)


def judge(problem: Problem, run: TrainedRun, at: datetime) -> Retrained:
    """Judge the model at `at`, register it, and promote it past the gates."""
    report = judge_model(problem.name, run)
    version = register_model.fn(run, report)
    return Retrained(at, version, registry.champion(problem.name) == version, report["gates"], run.snapshot.rows)
