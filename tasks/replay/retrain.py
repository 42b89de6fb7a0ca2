"""Retraining inside the replay: snapshot, training, judging, registry and gates, as of a simulated moment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.features.decision_frame import feature_versions
from tasks.release.register import register_model
from tasks.training.evaluate import evaluate_gates
from tasks.training.snapshot import build_snapshot
from tasks.training.train import train_model
from truecourse.data.sql import clean_versions
from truecourse.modeling.lookahead_result import Proof
from truecourse.modeling.rolling_split import problem_at
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables


@dataclass(frozen=True)
class RetrainingResult:
    """What a retraining came to. `version`: registered, and `promoted` or not; `gates`: the verdicts."""

    at: datetime
    version: ModelVersion
    promoted: bool
    gates: list[dict[str, Any]]
    rows: int


def train_candidate(problem: Problem, tables: Tables, at: datetime, proof: Proof | None = None) -> TrainedRun:
    """Train on what is known at `at` (UTC). The model is the same at any time after the last delivery before that.

    `proof`: that the views do not look ahead, from an earlier model of the replay, whose SQL is the same."""
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    until = at.replace(tzinfo=None)
    split = problem_at(problem, at)
    snapshot = build_snapshot(split, tables, clean=clean, features=features, until=until, proof=proof)
    return train_model.fn(problem.name, snapshot)


def evaluate_candidate(problem: Problem, run: TrainedRun, at: datetime) -> RetrainingResult:
    """Judge the model at `at`, register it, and promote it past the gates."""
    report = evaluate_gates(problem.name, run)
    version = register_model.fn(run, report)
    return RetrainingResult(at, version, registry.champion(problem.name) == version, report["gates"], run.snapshot.rows)
