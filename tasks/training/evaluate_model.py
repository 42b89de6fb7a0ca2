"""Evaluate a trained model on its snapshot's test rows: metrics, baselines, slices, gates, plots and the model card."""

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
from truecourse.errors import NotFound
from truecourse.evaluation import model_page, plots
from truecourse.evaluation.cards.card_document import Recorded, card_document
from truecourse.evaluation.cards.markdown import card_markdown
from truecourse.evaluation.gates import apply_gates, summarize
from truecourse.evaluation.model_evaluation import HeldOut, collect_evidence
from truecourse.evaluation.multiple_comparisons import try_number
from truecourse.evaluation.paired_comparison import Champion, Comparison
from truecourse.evaluation.recommendation import recommend_linear
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
from truecourse.serving.privacy import private_names
from truecourse.storage.object_store import ObjectStore, open_store

log = logging.getLogger("truecourse.evaluation.model_evaluation")
REPORT, CARD, CARD_MARKDOWN = "report.json", "card.json", "card.md"


def page_key(run: TrainedRun) -> str:
    return f"reports/{run.problem}/model-{run.run_id}.html"


@task(name="evaluate", **RETRY)
def evaluate_model(problem: str, run: TrainedRun) -> dict[str, Any]:
    """Evaluate a run; stores report.json, the model card and plots in the run, and the card's page among the reports.

    Returns the report, with the `sha256` of report.json:
    {"metrics": {model: {metric: {"value", "low", "high"}}}, "slices": [...], "gates": [...],
    "decision": decision_report() or None, "interval": interval_report() or None, "rows": {...},
    "contributions": {feature: mean absolute SHAP value}, "champion": version compared with or None, "page": key,
    "recommendation": recommend_linear()}."""
    spec, store = load_problem(problem), open_store()
    test = _held_out(spec, run, store)
    report, comparison = _report(test, test.predictions, run, store)
    report |= {"page": page_key(run)}
    recorded = _recorded(run, store)
    report |= {"recommendation": recommend_linear(test, recorded.training["form"].get("form", ""))}
    if report["recommendation"]:
        log.info("%s", report["recommendation"])
    card = card_document(test, run, report, recorded, comparison, private_names(spec))
    images = plots.draw(test, recorded.training)
    page = model_page.render(spec, run, report, recorded.training, recorded.manifest, recorded.lineage, images, card)
    store.put(page_key(run), page.encode())
    control_page.require_page(store, spec)
    files = {f"plots/{name}.png": plots.png(figure) for name, (_, figure) in images.items()}
    files |= {"model.html": remove_page_links(page).encode(), CARD: json.dumps(card, indent=1).encode()}
    _save(run, report, files | {CARD_MARKDOWN: card_markdown(card).encode()})
    show_page(page_key(run), "model", run.problem, "The model card")
    return report


def evaluate_gates(problem: str, run: TrainedRun) -> dict[str, Any]:
    """Evaluate a run for its gates only, without plots and page; stores and returns report.json.

    The linear baseline is fitted only if a gate needs it. Plots, page and baselines take ten times as long as gates."""
    spec, store = load_problem(problem), open_store()
    test = _held_out(spec, run, store)
    report, _ = _report(test, test.core_predictions, run, store)
    _save(run, report, {})
    return report


def _held_out(problem: Problem, run: TrainedRun, store: ObjectStore) -> HeldOut:
    frame = load_frame(store, run.snapshot)
    return HeldOut(problem, registry.open_model(run, problem.kind), frame, rows_of(frame, "test"))


def model_card(problem: str, run: TrainedRun) -> dict[str, Any]:
    """Build the card of an evaluated run again, with the texts and groups that the problem declares now.

    Nothing is stored. The comparison with a champion is left out: it is of the moment of the evaluation. Raises
    NotFound if the run was never evaluated."""
    spec, store = load_problem(problem), open_store()
    try:
        report = json.loads(runs.artifact(run.run_id, REPORT))
    except NotFound as error:
        hint = f"truecourse run register --problem {problem}"
        raise NotFound("the run was never evaluated", where=error.where, hint=hint) from None
    return card_document(_held_out(spec, run, store), run, report, _recorded(run, store), private=private_names(spec))


def stored_card(run: TrainedRun) -> dict[str, Any] | None:
    """Load the card that the evaluation of a run stored; None if it was evaluated by an earlier release, or never."""
    try:
        found: dict[str, Any] = json.loads(runs.artifact(run.run_id, CARD))
    except NotFound:
        return None
    return found


def _recorded(run: TrainedRun, store: ObjectStore) -> Recorded:
    training, lineage = (json.loads(runs.artifact(run.run_id, name)) for name in ("training.json", "lineage.json"))
    return Recorded(training, load_manifest(store, run.snapshot), lineage)


def _report(
    test: HeldOut, predictions: Mapping[str, Array], run: TrainedRun, store: ObjectStore
) -> tuple[dict[str, Any], Comparison | None]:
    """Return the report, and the comparison with another champion, if there is one."""
    metrics, parts, champion = test.metrics(predictions), test.slices(), registry.champion(run.problem)
    rival = open_rival(champion, test.problem, run.model_sha256) if champion and champion.run_id != run.run_id else None
    evidence = collect_evidence(test, metrics, parts, rival)
    results = apply_gates(test.problem.gates, evidence)
    report = {
        "metrics": metrics,
        "slices": parts,
        "gates": results,
        "decision": test.decision,
        "interval": test.interval,
        "rows": load_manifest(store, run.snapshot).rows,
        "contributions": test.contributions,
        "champion": champion.version if champion else None,
    }
    loss = metrics["model"][test.problem.metric]["value"]
    log.info("test rows: %s %.4f; %s", test.problem.metric, loss, summarize(results))
    return report, evidence.comparison


def open_rival(version: ModelVersion, problem: Problem, candidate: str = "") -> Champion:
    """Load a version's model and snapshot for a comparison, and verify their hashes.

    `candidate`: SHA-256 of the model that is compared with it; it counts as a try against this champion."""
    snapshot = runs.trained_run(version.problem, version.run_id).snapshot
    store, own = open_store(), rows_as_trained_by(problem, version)
    rival = Champion(version.version, registry.open_model(version, problem.kind), load_frame(store, snapshot), own)
    if not candidate:
        return rival
    return dataclasses.replace(rival, count_tries=partial(try_number, store, problem.name, version.version, candidate))


def _save(run: TrainedRun, report: dict[str, Any], files: dict[str, bytes]) -> None:
    """Store the files, then the report, which has their SHA-256."""
    report |= {"files": {name: sha256(data) for name, data in files.items()}}
    files |= {REPORT: seal(report)}
    report |= {SEAL: sha256(files[REPORT])}
    runs.put_artifacts(run.run_id, files)
    with mlflow_runs.warn_on_failure("the evaluation"):
        mlflow_runs.log_evaluation(run.run_id, report)
        mlflow_runs.copy_artifacts(run.run_id, files)
