"""How much a model depends on its seed and on the rows it happens to be trained on."""

import dataclasses
import time
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.evaluation.decision_report import decided_codes
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.modeling.training import matrix_of, train, with_parameters
from truecourse.problem import Problem, XGBoost
from truecourse.problem.training import AnyModel
from truecourse.statistics.metrics import loss

_SHARE = 0.8
"""The share of the rows that each training gets, where they are few."""
_TESTED = 5000
_SIDES = ("train", "validate")


def reseeded(test: HeldOut, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Train with other seeds on other samples of the rows, as Card(seeds=...) declares; None for no seeds.

    `parameters`: those that the model was trained with. None too if the problem declares another kind of model now.
    {"planned", "done": number of trainings, "seconds", "rows": of each training, "tested": test rows, "loss": {"mean",
    "low", "high": the smallest and the largest, "deviation"}, "spread": mean over test rows of the standard deviation
    of the predictions, "flipped": mean share of test rows whose predicted class differs between two trainings, or
    None}. The figures are None before two trainings are done. No training starts after Card(seed_seconds=...)."""
    card, start = test.problem.card, time.monotonic()
    spec = _spec(test.problem, parameters) if card.seeds else None
    if spec is None:
        return None
    tested = np.unique(np.linspace(0, len(test.rows) - 1, _TESTED).astype(int))
    rows, labels = test.lookup(test.rows.take(tested)), test.labels[tested]
    outputs: list[Array] = []
    for seed in range(1, card.seeds + 1):
        if outputs and time.monotonic() - start > card.seed_seconds:
            break
        outputs.append(_predict(test, spec, seed, rows))
    found: dict[str, Any] = {
        "planned": card.seeds, "done": len(outputs), "seconds": time.monotonic() - start,
        "rows": int(_sample(test, 0).sum()), "tested": len(tested), "loss": None, "spread": None, "flipped": None,
    }  # fmt: skip
    return found | _figures(test, labels, np.array(outputs)) if len(outputs) > 1 else found


def _sample(test: HeldOut, seed: int) -> Array:
    """Mark the rows of the frame that a training gets: of training and validation rows the same share of each."""
    split = test.trained["split"].to_numpy(zero_copy_only=False)
    sizes = {side: int((split == side).sum()) for side in _SIDES}
    share = min(_SHARE, test.problem.card.seed_rows / max(sum(sizes.values()), 1))
    random, chosen = np.random.default_rng(seed), np.zeros(len(split), dtype=bool)
    for side, size in sizes.items():
        chosen[random.choice(np.flatnonzero(split == side), round(share * size), replace=False)] = True
    return chosen


def _spec(problem: Problem, parameters: Mapping[str, Any]) -> AnyModel | None:
    try:
        return with_parameters(problem.model, parameters)
    except ModelError:
        return None


def _predict(test: HeldOut, spec: AnyModel, seed: int, rows: pa.Table) -> Array:
    problem = test.problem
    label = dataclasses.replace(problem.label, classes=test.model.vocabulary.classes)
    problem = dataclasses.replace(problem, label=label, decision=None)  # a sample may be too small to choose a rule
    spec = dataclasses.replace(spec, seed=spec.seed + seed) if isinstance(spec, XGBoost) else spec
    trained = train(problem, test.trained.filter(_sample(test, seed)), spec)
    return trained.model.predict(matrix_of(trained.model.vocabulary, rows)).astype(np.float64)


def _figures(test: HeldOut, labels: Array, outputs: Array) -> dict[str, Any]:
    """Compute the figures from the outputs (trainings, rows) or (trainings, rows, classes)."""
    kind = test.problem.kind
    values = np.array([loss(kind, labels, output) for output in outputs])
    flipped = None
    if kind != "regression":
        codes = [decided_codes(test.model, output) for output in outputs]
        flipped = float(np.mean([(one != other).mean() for one, other in combinations(codes, 2)]))
    return {
        "loss": {
            "mean": float(values.mean()), "low": float(values.min()), "high": float(values.max()),
            "deviation": float(values.std(ddof=1)),
        },
        "spread": float(outputs.std(axis=0, ddof=1).mean()),
        "flipped": flipped,
    }  # fmt: skip
