"""The HTML page of a model: its card, with metrics, baselines, gates, slices and lineage."""

from collections.abc import Mapping
from typing import Any

from truecourse.evaluation.cards.card_sections import chapters, operating_title
from truecourse.evaluation.decision_report import DECISION_LABELS
from truecourse.evaluation.plots import Images
from truecourse.html import feature_anchor, svg
from truecourse.html import render as render_page
from truecourse.modeling.snapshot import Manifest
from truecourse.page_sections import list_view
from truecourse.problem import Problem
from truecourse.references import TrainedRun
from truecourse.registry.lineage_record import sources
from truecourse.statistics.metrics import HIGHER_IS_BETTER, unit_of
from truecourse.wording import with_unit

_LABELS = {
    "auc": "AUC", "log_loss": "Log loss", "brier": "Brier score", "average_precision": "Average precision",
    "calibration_error": "Calibration error", "base_rate": "Base rate", "accuracy": "Accuracy", "macro_f1": "Macro F1",
    "rmse": "RMSE", "mae": "Mean absolute error", "r2": "R²", "bias": "Bias of the mean",
}  # fmt: skip
_SLICES = 25
_NEUTRAL = ("base_rate", "bias")
_ROWS = {
    "decisions": "decisions in the spine", "open": "cohort not closed yet", "unlabelled": "without a label",
    "after_test": "after the test window", "train": "train", "validate": "validate", "test": "test",
}  # fmt: skip
_MAIN = {
    "binary": ("auc", "log_loss", "brier"), "multiclass": ("log_loss", "accuracy", "macro_f1"),
    "regression": ("rmse", "mae", "r2"),
}  # fmt: skip


def render(
    problem: Problem,
    run: TrainedRun,
    report: Mapping[str, Any],
    training: Mapping[str, Any],
    manifest: Manifest,
    lineage: Mapping[str, Any],
    images: Images,
    card: Mapping[str, Any],
) -> str:
    """Render the page. `card`: of card_document()."""
    found = {chapter.title: chapter.sections for chapter in chapters(card, draw=True)}
    return render_page(
        "model.html",
        problem=problem,
        run=run,
        report={"decision": None, **report},
        decision_labels=DECISION_LABELS,
        training=training,
        manifest=manifest,
        sources=sources(lineage),
        labels={name: with_unit(label, unit_of(name, problem.label_unit)) for name, label in _LABELS.items()},
        linear={"regression": "Ridge regression"}.get(problem.kind, "Logistic regression"),
        tiles=[tile(name, report["metrics"], problem.label_unit) for name in _MAIN[problem.kind]],
        rows=[(label, report["rows"][name]) for name, label in _ROWS.items() if report["rows"].get(name)],
        metrics=[(name, _direction(name)) for name in report["metrics"]["model"]],
        features=_features(problem, report["contributions"]),
        unit=problem.contribution_unit,
        anchor=feature_anchor,
        parts=_by_column(card["slices"], _MAIN[problem.kind][0]),
        card=card,
        points=card["operating"],
        operating=operating_title(card),
        confusion=list_view("Confusion matrix", found[operating_title(card)]),
        chapters={title: list_view(title, sections) for title, sections in found.items()},
        dependence=found.get("Dependence on features", ()),
        main=_MAIN[problem.kind],
        plots=[(title, svg(figure, title)) for title, figure in images.values()],
        passed=all(gate["passed"] for gate in report["gates"]),
    )


def tile(name: str, metrics: Mapping[str, Any], label_unit: str = "") -> dict[str, Any]:
    """Return a headline metric with its unit, and its value for the linear baseline."""
    label = with_unit(_LABELS[name], unit_of(name, label_unit))
    return {"label": label, "figure": metrics["model"][name], "linear": metrics["linear"][name]["value"]}


def _direction(name: str) -> str:
    if name in _NEUTRAL:
        return ""
    return "higher is better" if name in HIGHER_IS_BETTER else "lower is better"


def _features(problem: Problem, contributions: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Return (feature, its group in the catalogue, mean absolute SHAP value), the largest first."""
    groups = problem.feature_groups
    largest = sorted(contributions.items(), key=lambda item: -item[1])
    return [(name, groups.get(name, ""), mean) for name, mean in largest]


def _by_column(slices: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Group slices by column, with the limits of the scale for their intervals."""
    columns = dict.fromkeys(part["column"] for part in slices)
    return [_scaled(column, [p for p in slices if p["column"] == column][:_SLICES], metric) for column in columns]


def _scaled(column: str, parts: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    figures = [part["metrics"][metric] for part in parts]
    low = min((f["low"] for f in figures if f["low"] is not None), default=0.0)
    high = max((f["high"] for f in figures if f["high"] is not None), default=1.0)
    return {"column": column, "slices": parts, "low": low, "high": high, "width": (high - low) or 1.0}
