"""Ingest, validate, compute and train without flows, for tests of lineage."""

from pathlib import Path

import pandas as pd

from tasks.data.ingest import ingest_sources
from tasks.data.validate import validate_new
from tasks.release.register import register_model
from tasks.training.build_snapshot import take_snapshot
from tasks.training.evaluate_model import evaluate_gates
from tasks.training.train import train_model
from tests import simulated_deliveries
from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.feature_tables import compute_view
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, naive_utc
from truecourse.storage.delta_tables import Tables


def refresh(name: str) -> None:
    """Ingest and validate all sources of a problem, and compute its views."""
    problem, tables = load_problem(name), Tables()
    for table in in_order_of_reference(problem):
        ingest_sources(problem, table, tables)
        validate_new(problem, table, tables, naive_utc(pd.Timestamp("2024-03-10").to_pydatetime()))  # type: ignore[arg-type]
    for view in problem.views:
        compute_view(problem, tables, view.name)


def train(name: str) -> ModelVersion:
    """Train on the newest tables, and register the version."""
    run = train_model.fn(name, take_snapshot.fn(name))
    return register_model.fn(run, evaluate_gates(name, run))


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
