"""Retraining inside the replay: snapshot, training, judging, registry and gates, as of a simulated moment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.evaluate import judge_model
from tasks.register import register_model
from tasks.snapshot import build_snapshot, feature_versions
from tasks.train import train_model
from truecourse import registry
from truecourse.monitoring.moving import problem_at
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.sql import clean_versions
from truecourse.tables import Tables


@dataclass(frozen=True)
class Retrained:
    """What a retraining came to. `version`: registered, and `promoted` or not; `gates`: the verdicts."""

    at: datetime
    version: ModelVersion
    promoted: bool
    gates: list[dict[str, Any]]
    rows: int


def retrain(problem: Problem, tables: Tables, at: datetime) -> Retrained:
    """Train on what is known at `at` (UTC), judge, register, and promote past the gates."""
    until = at.replace(tzinfo=None)
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    snapshot = build_snapshot(problem_at(problem, at), tables, clean=clean, features=features, until=until)
    run = train_model.fn(problem.name, snapshot)
    report = judge_model(problem.name, run)
    version = register_model.fn(run, report)
    promoted = registry.champion(problem.name) == version
    return Retrained(at, version, promoted, report["gates"], snapshot.rows)
