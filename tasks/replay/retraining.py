"""Retraining inside a replay: snapshot, training, evaluation and registration, as of a simulated time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.features.decision_frame import feature_versions
from tasks.release.register import register_model
from tasks.training.build_snapshot import build_snapshot
from tasks.training.evaluate_model import evaluate_gates
from tasks.training.train import train_model
from truecourse.data.sql import clean_versions
from truecourse.modeling.lookahead_result import Proof
from truecourse.modeling.rolling_split import problem_at
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables


@dataclass(frozen=True)
class RetrainingResult:
    """The outcome of a retraining. `gates`: the gate results. `rows`: of the snapshot."""

    at: datetime
    version: ModelVersion
    promoted: bool
    gates: list[dict[str, Any]]
    rows: int


def train_candidate(problem: Problem, tables: Tables, at: datetime, proof: Proof | None = None) -> TrainedRun:
    """Train on the data known at `at` (UTC). The result is the same at any time after the last delivery before it.

    `proof`: the look-ahead proof of an earlier model of the replay, which has the same SQL."""
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    until = at.replace(tzinfo=None)
    split = problem_at(problem, at)
    snapshot = build_snapshot(split, tables, clean=clean, features=features, until=until, proof=proof)
    return train_model.fn(problem.name, snapshot)


def evaluate_candidate(problem: Problem, run: TrainedRun, at: datetime) -> RetrainingResult:
    """Evaluate a model at `at`, register it, and promote it if its gates pass."""
    report = evaluate_gates(problem.name, run)
    version = register_model.fn(run, report)
    return RetrainingResult(at, version, registry.champion(problem.name) == version, report["gates"], run.snapshot.rows)
