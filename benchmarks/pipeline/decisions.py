"""Cost of decisions on tables from packages and on synthetic ones: `Decision(costs=...)` compared with the likeliest
class, and with the threshold of the least cost on the test rows.

Limits: nowhere significantly above the cost of the likeliest class, and within 5% of the best threshold. That one is
chosen on the very rows that it is measured on, so on small tables no rule comes near it.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.harness import Row, measure
from benchmarks.pipeline import tables
from tasks.planning import stages
from truecourse.arrays import Array
from truecourse.authoring.scaffold.create import scaffold
from truecourse.evaluation.decision_report import cost_difference
from truecourse.modeling.decisions import choose_rule, default_codes, row_costs
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import TrainingResult, matrix_of, rows_of, train
from truecourse.problem import Decision
from truecourse.problem.definition import Kind
from truecourse.problem.loader import load_problem
from truecourse.storage.object_store import open_store

NAMES = (
    "titanic", "colleges", "defaulters", "juice", "breast_cancer", "linear_two_classes", "bent_two_classes",
    "penguins", "weather", "glass", "iris", "wine",
)  # fmt: skip
QUICK = ("titanic", "iris")
COSTS = (5.0, 20.0)
"""Costs of missing the last class (of several classes: the first one too), where any other error costs 1."""


class _Part(NamedTuple):
    """A model's classes, and labels and outputs of its validation rows and of its test rows."""

    classes: tuple[str, ...]
    left_out_labels: Array
    left_out: Array
    labels: Array
    output: Array


def rows(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        home, problems = Path(folder) / ".truecourse", Path(folder) / "problems"
        names = QUICK if quick else NAMES
        results = measure("benchmarks.pipeline.decisions:measure_costs", home, problems, names=names, folder=folder)
    return [row for result in results.result for row in _rows(result)]


def _rows(result: Mapping[str, Any]) -> list[Row]:
    what, unit = f"{result['name']}: a miss costs {result['miss']:g}, {result['rows']:,} rows", "cost per row"
    found = [
        Row(what=what, value=result["cost"], unit=unit, reference=result["default"], reference_is="likeliest class"),
        Row(what=f"{what}: excess over it, lower bound (95%)", value=result["worse_by_at_least"], unit=unit, limit=0),
    ]
    if result["best"] is not None:
        found.append(
            Row(what=what, value=result["cost"], unit=unit, reference=result["best"], reference_is="best threshold",
                limit=1.05)
        )  # fmt: skip
    return found


def measure_costs(names: Sequence[str], folder: str) -> Callable[[], list[dict[str, Any]]]:
    """Write a problem for each table with `init`; returns a function that trains and measures the costs."""
    for name in names:
        path, label = tables.table_file(name, Path(folder))
        scaffold(name, path, label)
    return lambda: [result for name in names for result in compare(name)]


def compare(name: str) -> list[dict[str, Any]]:
    """Costs on test rows by the rule, by the likeliest class, and by the best threshold for these rows."""
    from tasks.training.build_snapshot import take_snapshot

    problem = load_problem(name)
    stages.ingest(problem)
    stages.validate(problem)
    frame = load_frame(open_store(), take_snapshot.fn(name, None))
    parts = [_outputs(train(problem, part), part) for part in tables.parts(problem, frame)]
    return [{"name": name, "miss": miss} | _compare(problem.kind, parts, miss) for miss in COSTS]


def _outputs(trained: TrainingResult, part: pa.Table) -> _Part:
    model, test = trained.model, rows_of(part, "test")
    rows, left_out = trained.out_of_fold
    labels = [model.vocabulary.labels(side) for side in (part.take(rows), test)]
    return _Part(
        model.vocabulary.classes, labels[0], left_out, labels[1], model.predict(matrix_of(model.vocabulary, test))
    )


def _costs(classes: Sequence[str], miss: float) -> dict[str, dict[str, float]]:
    dear = {classes[-1]} if len(classes) == 2 else {classes[0], classes[-1]}
    return {a: {b: miss if a in dear else 1.0 for b in classes if b != a} for a in classes}


def _compare(kind: Kind, parts: Sequence[_Part], miss: float) -> dict[str, Any]:
    decision = Decision(costs=_costs(parts[0].classes, miss))
    rules = [choose_rule(decision, kind, one.classes, one.left_out_labels, one.left_out) for one in parts]
    codes = np.concatenate([rule.codes(one.output) for rule, one in zip(rules, parts, strict=True) if rule])
    labels, output = (np.concatenate([one[place] for one in parts]) for place in (3, 4))
    assert rules[0] is not None
    matrix, blocks, both = rules[0].costs, np.arange(len(labels)), (codes, default_codes(output))
    cost, default = (float(row_costs(matrix, labels, one).mean()) for one in both)
    return {
        "rows": len(labels),
        "cost": cost,
        "default": default,
        "worse_by_at_least": cost_difference(matrix, labels, both, blocks, False)["low"],
        "best": _best(matrix, labels, output) if output.ndim == 1 else None,
    }


def _best(matrix: Sequence[Sequence[float]], labels: Array, output: Array) -> float:
    """The least cost of any threshold on these rows."""
    thresholds = np.append(np.unique(output), 2.0)
    return min(float(row_costs(matrix, labels, (output >= one).astype(np.int64)).mean()) for one in thresholds)
