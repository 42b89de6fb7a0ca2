"""A trained and registered champion with predictions in a Delta table, for tests of monitoring."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.unevaluated_versions import set_champion
from truecourse.arrays import columns_of
from truecourse.features import frame as frames
from truecourse.modeling.snapshot import Manifest, save, serialize
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem, problem_digest, problem_document
from truecourse.references import ModelVersion, Snapshot, Window
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORE, SCORED_AT
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

FIRST = datetime(2024, 1, 1)
PREDICTIONS = "predictions/deliveries"


def decisions(first_day: int, days: int, seed: int, a_day: int = 80) -> pa.Table:
    """Simulated deliveries with every feature; 5% of the couriers' histories are missing."""
    random, n = np.random.default_rng(seed), days * a_day
    seconds = np.sort(random.integers(0, days * 86400, n)) + first_day * 86400
    at = np.datetime64(FIRST) + seconds.astype("timedelta64[s]")
    distance, promised = random.gamma(3, 2, n).round(2), random.integers(30, 90, n)
    late = np.where(random.random(n) < 0.05, np.nan, random.beta(2, 6, n))
    return pa.table(
        {
            "id": [f"{first_day}-{seed}-{i}" for i in range(n)],
            "decision_time": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
            "courier": random.choice(["c00", "c01", "c02"], n),
            "depot": random.choice(["north", "south", "east"], n),
            "promised": promised,
            "distance": distance,
            "hour": at.astype("datetime64[h]").astype(np.int64) % 24,
            "weekend": (at.astype("datetime64[D]").astype(np.int64) + 3) % 7 // 5,
            "km_a_minute": distance / promised,
            "courier_late_7d": pa.array(late, from_pandas=True),
            "courier_count_7d": random.poisson(40, n),
            "depot_late_1d": random.beta(4, 12, n),
            "depot_last_took": random.integers(10, 80, n),
            "vehicle": random.choice(["bike", "van"], n),
            "since": random.integers(2015, 2027, n),
            "label": (distance + random.normal(0, 3, n) > 8).astype(np.int64),
        }
    )


def snapshot() -> Snapshot:
    """Save a snapshot: train until 9 February, validate until 19 February, test until the end of the month."""
    problem = load_problem("deliveries")
    frame = frames.add_split(problem, frames.sort_frame(decisions(0, 60, seed=1)))
    manifest = Manifest(
        problem="deliveries",
        problem_digest=problem_digest(problem),
        document=problem_document(problem),
        until=None,
        rows={},
        columns={},
        inputs=(),
    )
    return save(open_store(), serialize([frame]), manifest)


def score(version: ModelVersion, rows: pa.Table, number: int | None = None) -> None:
    """Score rows with the version's own model, and write the predictions as the score flow does."""
    problem = load_problem("deliveries")
    model = registry.open_model(version, problem.kind)
    scores = model.predict(model.vocabulary.encode(columns_of(rows, model.vocabulary.features))).astype(np.float64)
    predictions = rows.select(["id", "decision_time", *problem.features]).append_column(SCORE, pa.array(scores))
    for name, values in (
        (MODEL_VERSION, pa.array([number or version.version] * len(rows), pa.int64())),
        (SCORED_AT, pa.array([datetime.now(UTC)] * len(rows), pa.timestamp("us", tz="UTC"))),
    ):
        predictions = predictions.append_column(name, values)
    Tables().append(PREDICTIONS, predictions, {"flow": "score"})


def trained_champion(folder: Path, configure: Callable[..., None]) -> ModelVersion:
    """The champion, trained once for all tests that share the folder; predictions of earlier tests are removed."""
    from tasks.training.train import train_model

    configure(home=folder / "home", problems=folder / "problems", problem="deliveries")
    for table in ("predictions", "predictions_log", "histograms", "checked"):
        shutil.rmtree(folder / "home" / "storage" / table, ignore_errors=True)
    champion = registry.champion("deliveries")
    if champion is None:
        champion = registry.create_version(train_model.fn("deliveries", snapshot()))
        set_champion(champion)
    return champion


def run_drift_check(at: datetime | None = None, window: Window | None = None, evidently: bool = False) -> Report:
    from tasks.monitoring.check_drift import run_drift_check as check

    return check(load_problem("deliveries"), Tables(), at, window, evidently)


def drifted_subjects(report: Report, cause: str = "drift") -> list[str]:
    return [finding.subject for finding in report.findings if finding.cause == cause]


def critical_findings(report: Report) -> list[tuple[str, str]]:
    return [(finding.subject, finding.cause) for finding in report.findings if finding.page]


def shift_column(rows: pa.Table, name: str, by: float) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(rows[name].to_numpy() + by))


def change_from(rows: pa.Table, first: datetime, name: str, by: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    """Change the values of one column in all rows decided at `first` or later."""
    values = rows[name].to_pandas().to_numpy().copy()
    late = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy() >= np.datetime64(first)
    values[late] = by(values[late])
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows[name].type, from_pandas=True))


LAST = FIRST + timedelta(days=95)
BROKEN: list[tuple[str, Callable[[np.ndarray], np.ndarray], tuple[str, str]]] = [
    ("courier_late_7d", lambda v: v * np.nan, ("courier_late_7d", "dead feed")),
    ("depot", lambda v: np.where(np.arange(len(v)) % 20 == 0, "west", v), ("depot", "new category")),
    ("promised", lambda v: v * 60, ("promised", "unit change")),
]
