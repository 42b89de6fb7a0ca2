"""Evaluate a trained model on its snapshot's test rows: metrics, baselines, slices, gates, plots and the model page."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import task

from tasks.artifacts import show_page
from tasks.features.trained_features import rows_as_trained_by
from tasks.retry import RETRY
from truecourse.arrays import Array
from truecourse.evaluation import model_page, plots
from truecourse.evaluation.gates import apply_gates, summarize
from truecourse.evaluation.model_evaluation import HeldOut, collect_evidence
from truecourse.evaluation.multiple_comparisons import try_number
from truecourse.evaluation.paired_comparison import Champion
from truecourse.hashing import SEAL, seal, sha256
from truecourse.html import remove_page_links
from truecourse.modeling.snapshot import load_frame, load_manifest
from truecourse.modeling.training import rows_of
from truecourse.monitoring.dashboard import control_page
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.storage.object_store import ObjectStore, open_store

log = logging.getLogger("truecourse.evaluation.model_evaluation")
REPORT = "report.json"


def page_key(run: TrainedRun) -> str:
    return f"reports/{run.problem}/model-{run.run_id}.html"


@task(name="evaluate", **RETRY)
def evaluate_model(problem: str, run: TrainedRun) -> dict[str, Any]:
    """Evaluate a run; stores report.json and plots in the run, and the model page among the reports.

    Returns the report, with the `sha256` of report.json:
    {"metrics": {model: {metric: {"value", "low", "high"}}}, "slices": [...], "gates": [...],
    "decision": decision_report() or None, "rows": {...},
    "contributions": {feature: mean absolute SHAP value}, "champion": version compared with or None, "page": key}."""
    spec, store = load_problem(problem), open_store()
    test = _held_out(spec, run, store)
    report = _report(test, test.predictions, run, store) | {"page": page_key(run)}
    images = plots.draw(test, json.loads(runs.artifact(run.run_id, "training.json")))
    page = _page(spec, run, store, report, images)
    store.put(page_key(run), page)
    control_page.require_page(store, spec)
    files = {f"plots/{name}.png": plots.png(figure) for name, (_, figure) in images.items()}
    _save(run, report, files | {"model.html": remove_page_links(page.decode()).encode()})
    show_page(page_key(run), "model", run.problem, "The model's evaluation")
    return report


def evaluate_gates(problem: str, run: TrainedRun) -> dict[str, Any]:
    """Evaluate a run for its gates only, without plots and page; stores and returns report.json.

    The linear baseline is fitted only if a gate needs it. Plots, page and baselines take ten times as long as gates."""
    spec, store = load_problem(problem), open_store()
    test = _held_out(spec, run, store)
    report = _report(test, test.core_predictions, run, store)
    _save(run, report, {})
    return report


def _held_out(problem: Problem, run: TrainedRun, store: ObjectStore) -> HeldOut:
    frame = load_frame(store, run.snapshot)
    return HeldOut(problem, registry.open_model(run, problem.kind), frame, rows_of(frame, "test"))


def _report(test: HeldOut, predictions: Mapping[str, Array], run: TrainedRun, store: ObjectStore) -> dict[str, Any]:
    metrics, parts, champion = test.metrics(predictions), test.slices(), registry.champion(run.problem)
    rival = open_rival(champion, test.problem, run.model_sha256) if champion and champion.run_id != run.run_id else None
    results = apply_gates(test.problem.gates, collect_evidence(test, metrics, parts, rival))
    report = {
        "metrics": metrics,
        "slices": parts,
        "gates": results,
        "decision": test.decision,
        "rows": load_manifest(store, run.snapshot).rows,
        "contributions": test.contributions,
        "champion": champion.version if champion else None,
    }
    loss = metrics["model"][test.problem.metric]["value"]
    log.info("test rows: %s %.4f; %s", test.problem.metric, loss, summarize(results))
    return report


def open_rival(version: ModelVersion, problem: Problem, candidate: str = "") -> Champion:
    """Load a version's model and snapshot for a comparison, and verify their hashes.

    `candidate`: SHA-256 of the model that is compared with it; it counts as a try against this champion."""
    snapshot = runs.trained_run(version.problem, version.run_id).snapshot
    store, own = open_store(), rows_as_trained_by(problem, version)
    rival = Champion(version.version, registry.open_model(version, problem.kind), load_frame(store, snapshot), own)
    if not candidate:
        return rival
    return dataclasses.replace(rival, count_tries=partial(try_number, store, problem.name, version.version, candidate))


def _page(problem: Problem, run: TrainedRun, store: ObjectStore, report: dict[str, Any], images: plots.Images) -> bytes:
    training = json.loads(runs.artifact(run.run_id, "training.json"))
    manifest = load_manifest(store, run.snapshot)
    lineage = json.loads(runs.artifact(run.run_id, "lineage.json"))
    return model_page.render(problem, run, report, training, manifest, lineage, images).encode()


def _save(run: TrainedRun, report: dict[str, Any], files: dict[str, bytes]) -> None:
    """Store the files, then the report, which has their SHA-256."""
    report |= {"files": {name: sha256(data) for name, data in files.items()}}
    files |= {REPORT: seal(report)}
    report |= {SEAL: sha256(files[REPORT])}
    runs.put_artifacts(run.run_id, files)
    with mlflow_runs.warn_on_failure("the evaluation"):
        mlflow_runs.log_evaluation(run.run_id, report)
        mlflow_runs.copy_artifacts(run.run_id, files)
