"""Plots of a model's predictions on its test rows."""

import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from truecourse.arrays import Array
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.html import PALETTE, any_script, figure
from truecourse.statistics.metrics import unit_of
from truecourse.wording import with_unit

Images: TypeAlias = dict[str, tuple[str, Any]]
"""By name: (title, matplotlib figure)."""

_POINTS = 300
_SHOWN = 18
_SOFT = "#8a9099"


def draw(test: HeldOut, training: Mapping[str, Any]) -> Images:
    """Draw every plot for this kind of problem. `training`: the run's training.json."""
    if test.problem.kind == "regression":
        images = {"predicted": _predicted(test), "residuals": _residuals(test)}
    else:
        images = {"roc": _roc(test), "precision_recall": _precision_recall(test), "scores": _scores(test)}
    return images | {
        "calibration": _calibration(test),
        "contributions": _contributions(test),
        **_training_plot(training, unit_of(test.problem.metric, test.problem.label_unit)),
    }


def png(drawn: Any) -> bytes:
    """Render a figure as PNG on white."""
    buffer = io.BytesIO()
    with any_script():
        drawn.savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _curves(test: HeldOut) -> list[tuple[str, Array, Array]]:
    """Return (name, is positive, score): of the model and the linear baseline, or of each class (multiclass)."""
    if test.problem.kind == "binary":
        names = {"model": "model", "linear": "logistic regression"}
        return [(title, test.labels > 0, test.predictions[name]) for name, title in names.items()]
    scores = test.predictions["model"]
    return [(name, test.labels == code, scores[:, code]) for code, name in enumerate(test.model.vocabulary.classes)]


def _counts(positive: Array, scores: Array) -> tuple[Array, Array]:
    """Count true and false positives at every threshold, from the highest, at the ends of ties, thinned for drawing."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).astype(int))]
    found = np.cumsum(positive[order])[ends]
    return found, ends + 1 - found


def _roc(test: HeldOut) -> tuple[str, Any]:
    drawn, axis = figure(4.6, 3.6)
    axis.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for name, positive, scores in _curves(test):
        if not 0 < positive.sum() < len(positive):
            continue  # without rows of both kinds there is no curve
        found, false = _counts(positive, scores)
        axis.plot(np.append(0, false / false[-1]), np.append(0, found / found[-1]), label=name)
    axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right", labelcolor=_SOFT, frameon=False)
    return "ROC: how well scores order the rows", drawn


def _precision_recall(test: HeldOut) -> tuple[str, Any]:
    drawn, axis = figure(4.6, 3.6)
    for number, (name, positive, scores) in enumerate(_curves(test)):
        if not positive.any():
            continue
        found, false = _counts(positive, scores)
        axis.plot(found / found[-1], found / (found + false), label=name)
        if number == 0 or test.problem.kind == "multiclass":
            axis.axhline(positive.mean(), color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(loc="best", labelcolor=_SOFT, frameon=False)
    return "Precision and recall; dashed: the base rate", drawn


def _scores(test: HeldOut) -> tuple[str, Any]:
    """Draw the distribution of the scores of each class."""
    drawn, axis = figure(4.6, 3.6)
    positive = test.predictions["model"] if test.problem.kind == "binary" else test.predictions["model"].max(axis=1)
    bins = np.linspace(positive.min(), positive.max(), 41)
    for code, name in enumerate(test.model.vocabulary.classes):
        own = positive[test.labels == code]
        axis.hist(own, bins=bins, weights=np.full(len(own), 1 / max(len(own), 1)), alpha=0.5, label=f"label {name}")
    words = {
        "binary": f"score of class {test.model.vocabulary.classes[-1]}",
        "multiclass": "score of the likeliest class",
    }
    axis.set(xlabel=words[test.problem.kind], ylabel="share of the class")
    axis.set_axisbelow(True)
    axis.legend(loc="best", labelcolor=_SOFT, frameon=False)
    return "Scores by outcome", drawn


def calibration_bins(test: HeldOut) -> list[dict[str, float]]:
    """Compute the calibration by tenths of the predictions: [{"rows", "predicted", "actual": means, "error": half of
    the 95% interval of the mean outcome}]; of several classes, that of the predicted class."""
    scores, truth = test.core_predictions["model"].astype(np.float64), test.labels.astype(np.float64)
    if test.problem.kind == "multiclass":
        scores, truth = scores.max(axis=1), (scores.argmax(axis=1) == test.labels).astype(np.float64)
    parts = [part for part in np.array_split(np.argsort(scores, kind="stable"), 10) if len(part)]
    return [
        {
            "rows": len(part),
            "predicted": float(scores[part].mean()),
            "actual": float(truth[part].mean()),
            "error": float(1.96 * truth[part].std() / np.sqrt(len(part))),
        }
        for part in parts
    ]


def _calibration(test: HeldOut) -> tuple[str, Any]:
    """Draw mean outcome against mean prediction, by deciles of the predictions."""
    bins = calibration_bins(test)
    predicted, actual, errors = ([part[name] for part in bins] for name in ("predicted", "actual", "error"))
    drawn, axis = figure(4.6, 3.6)
    ends = [min(*predicted, *actual), max(*predicted, *actual)]
    axis.plot(ends, ends, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axis.errorbar(predicted, actual, yerr=errors, marker="o", markersize=4, linewidth=1.2, elinewidth=1)
    words = {"binary": "share of positives", "multiclass": "share right", "regression": "mean label"}
    axis.set(xlabel="mean prediction", ylabel=words[test.problem.kind])
    return "Calibration: by tenths of the predictions, 95% bars", drawn


def _contributions(test: HeldOut) -> tuple[str, Any]:
    """Draw the mean absolute SHAP value of the inputs with the largest ones."""
    largest = sorted(test.contributions.items(), key=lambda item: item[1])[-_SHOWN:]
    drawn, axis = figure(4.6, max(1.6, 0.24 * len(largest) + 0.7))
    axis.barh([name for name, _ in largest], [mean for _, mean in largest], color=PALETTE[0], height=0.65)
    axis.grid(visible=False, axis="y")
    axis.set_axisbelow(True)
    axis.set(xlabel=with_unit("mean absolute contribution", test.problem.contribution_unit))
    axis.margins(y=0.01)
    return "What moves the predictions (exact SHAP values)", drawn


def _training_plot(training: Mapping[str, Any], unit: str) -> Images:
    """Draw the loss by penalty of Linear(), or by round of any other model."""
    if training.get("form", {}).get("penalties"):
        return {"penalties": _penalties(training, unit)}
    return {"learning_curve": _learning_curve(training, unit)}


def _penalties(training: Mapping[str, Any], unit: str) -> tuple[str, Any]:
    drawn, axis = figure(4.6, 3.6)
    penalties, losses = zip(*sorted(training["form"]["penalties"]), strict=True)
    axis.plot(penalties, losses, marker="o")
    axis.axvline(training["form"]["penalty"], color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_xscale("log")
    axis.set(xlabel=f"L2 penalty ({training['form']['penalty']:g} chosen)", ylabel=with_unit("validation loss", unit))
    return "Choice of the penalty: loss by penalty", drawn


def _learning_curve(training: Mapping[str, Any], unit: str) -> tuple[str, Any]:
    """Draw the loss by round; round 0 is the linear model, if the model begins with one."""
    drawn, axis = figure(4.6, 3.6)
    best = training["rounds"]
    for side, losses in training["curve"].items():
        rounds = np.arange(len(losses)) + best - int(np.argmin(training["curve"]["validate"]))
        axis.plot(rounds, losses, label=side)
    axis.axvline(best, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axis.set(xlabel=f"round of boosting ({best} chosen)", ylabel=with_unit("loss", unit))
    axis.legend(loc="upper right", labelcolor=_SOFT, frameon=False)
    return "Learning curve: loss by round", drawn


def _predicted(test: HeldOut) -> tuple[str, Any]:
    drawn, axis = figure(4.6, 3.6)
    chosen = np.unique(np.linspace(0, len(test.labels) - 1, 3000).astype(int))
    predicted, actual = test.predictions["model"][chosen], test.labels[chosen]
    ends = [min(predicted.min(), actual.min()), max(predicted.max(), actual.max())]
    axis.plot(ends, ends, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axis.scatter(predicted, actual, s=9, alpha=0.5, linewidths=0)
    unit = test.problem.label_unit
    axis.set(xlabel=with_unit("prediction", unit), ylabel=with_unit("label", unit))
    return "Labels against predictions", drawn


def _residuals(test: HeldOut) -> tuple[str, Any]:
    drawn, axis = figure(4.6, 3.6)
    for name, title in (("model", "model"), ("linear", "ridge regression")):
        axis.hist(test.labels - test.predictions[name], bins=40, histtype="step", linewidth=1.4, label=title)
    axis.set(xlabel=with_unit("label minus prediction", test.problem.label_unit), ylabel="test rows")
    axis.legend(loc="upper right", labelcolor=_SOFT, frameon=False)
    return "Errors", drawn
