"""Ingest, validate, compute and train without flows, for tests of lineage."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.online_loading import load_online
from feature_repo.store import apply
from services.log.spool import Spool
from services.model.predictor import registered_predictor
from tasks.release.register import register_model
from tasks.scoring.score_decisions import score_decisions
from tasks.training.build_snapshot import take_snapshot
from tasks.training.evaluate_model import evaluate_gates, evaluate_model
from tasks.training.train import train_model
from tests import simulated_deliveries
from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry
from truecourse.storage.delta_tables import Tables


def refresh(name: str) -> None:
    """Ingest and validate all sources of a problem, and compute its views."""
    problem, tables = load_problem(name), Tables()
    for table in in_order_of_reference(problem):
        ingest_sources(problem, table, tables)
        validate_new(problem, table, tables, datetime(2024, 3, 10))
    for view in problem.views:
        compute_view(problem, tables, view.name)


def train(name: str, *, card: bool = False) -> ModelVersion:
    """Train on the newest tables, and register the version. `card`: with the model card, which takes longer."""
    run = train_model.fn(name, take_snapshot.fn(name))
    return register_model.fn(run, evaluate_model.fn(name, run) if card else evaluate_gates(name, run))


def deliver(problems: Path) -> Path:
    """Write the deliveries' problem with two files: the second brings later rows, a correction and an invalid row."""
    rows = simulated_deliveries.deliveries(a_day=40)
    rows.loc[7, "depot"] = "west"  # is not among the depots: quarantined
    late = rows["ordered_at"] >= "2024-02-28"
    folder = simulated_deliveries.install(problems, rows[~late])
    refresh("deliveries")
    corrected = rows[1000:1001].assign(took=400)
    pd.concat([corrected, rows[late]]).to_csv(folder / "data" / "deliveries-2.csv", index=False)
    refresh("deliveries")
    return folder


def build(problems: Path) -> None:
    """Deliver, train version 1, and score ten days of decisions."""
    deliver(problems)
    train("deliveries")
    window = Window(start=datetime(2024, 2, 20), end=datetime(2024, 2, 29, 6))
    score_decisions.fn("deliveries", 1, window, explain=False)


def serve(name: str, version: int, rows: Sequence[Mapping[str, Any]], at: datetime) -> list[str]:
    """Answer a request from the online store as of `at` (UTC), and ship its log. The ids of the predictions."""
    problem, at = load_problem(name), at.replace(tzinfo=UTC)
    if problem.views:
        apply(problem)
    for view in problem.views:
        load_online(problem, Tables(), view.name, at)
    chosen = registry.version(name, version)
    predictor = registered_predictor(chosen, registry.open_model(chosen, problem.kind))
    answered = predictor.answer(predictor.rows.read_request(json.dumps({"rows": list(rows)}).encode(), at), at=at)
    spool = Spool(spool_folder(name), encode_entry)
    spool.put(answered)
    spool.close()
    assert ship(name).records == len(rows)
    return [answer["prediction_id"] for answer in answered.answers]
