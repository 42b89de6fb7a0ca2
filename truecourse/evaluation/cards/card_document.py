"""The card of a model as one JSON document."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from truecourse.evaluation.cards.explanations import dependence, examples, interactions
from truecourse.evaluation.cards.fairness import Predicted, fairness
from truecourse.evaluation.cards.operating_points import operating_points
from truecourse.evaluation.cards.stability import reseeded
from truecourse.evaluation.decision_report import decided_codes
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.evaluation.paired_comparison import Comparison
from truecourse.evaluation.plots import calibration_bins
from truecourse.modeling.snapshot import Manifest
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import TrainedRun
from truecourse.registry.lineage_record import sources
from truecourse.statistics.intervals import Estimate
from truecourse.statistics.metrics import measure
from truecourse.wording import counted

_FEW_ROWS = 100
_FEW_OF_A_CLASS = 20
"""Below these numbers a slice's figures depend on single rows."""
_SPANS = {"train": "training", "validate": "validation", "test": "test"}


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a run: its training.json and lineage.json, and its snapshot's manifest."""

    training: Mapping[str, Any]
    manifest: Manifest
    lineage: Mapping[str, Any]


def card_document(
    test: HeldOut,
    run: TrainedRun,
    report: Mapping[str, Any],
    recorded: Recorded,
    comparison: Comparison | None = None,
    private: Collection[str] = (),
) -> dict[str, Any]:
    """Build the card of a model from its evaluation.

    `report`: the run's report.json. `comparison`: with the champion; None without another champion. `private`: fields
    and features whose values are not shown. `unknown_groups`: those that the frame, built earlier, does not have."""
    problem, training = test.problem, recorded.training
    groups = [name for name in problem.card.groups if name in test.rows.column_names]
    return {
        "problem": problem.name,
        "kind": problem.kind,
        "metric": problem.metric,
        "declared": _declared(problem),
        "model": _model(test, run, training),
        "data": _data(run, recorded),
        "split": _split(test, report["rows"]),
        "metrics": report["metrics"],
        "recommendation": report.get("recommendation", ""),
        "champion": _champion(problem, comparison),
        "gates": report["gates"],
        "decision": report.get("decision"),
        "interval": report.get("interval"),
        "operating": _operating(test, report),
        "calibration": calibration_bins(test),
        "slices": [part | {"warning": sample_warning(problem.kind, part)} for part in report["slices"]],
        "fairness": [fairness(_predicted(test), test.rows, name) for name in groups],
        "unknown_groups": [name for name in problem.card.groups if name not in groups],
        "contributions": test.contributions,
        "dependence": dependence(test, private),
        "interactions": interactions(test),
        "examples": examples(test, private, problem.card.examples),
        "stability": reseeded(test, training["parameters"]),
        "cost": training.get("cost"),
        "reproduce": [
            f"truecourse trace model --problem {problem.name} VERSION",
            f"truecourse reproduce --problem {problem.name} VERSION",
        ],
    }


def _operating(test: HeldOut, report: Mapping[str, Any]) -> dict[str, Any]:
    """The operating points, beginning at the threshold and with the costs that the model decides by."""
    rule = (report.get("decision") or {}).get("rule", {})
    threshold, costs = rule.get("threshold"), rule.get("costs") or [[0.0, 1.0], [1.0, 0.0]]
    points = operating_points(
        test.problem.kind, test.model.vocabulary.classes, test.labels, test.core_predictions["model"],
        0.5 if threshold is None else threshold,
    )  # fmt: skip
    return points | ({"costs": costs} if test.problem.kind == "binary" else {})


def _declared(problem: Problem) -> dict[str, Any]:
    label = problem.label
    return {
        "question": problem.description,
        "label": label.description,
        "unit": problem.label_unit,
        "owner": problem.owner,
        "use": problem.card.use,
        "not_for": list(problem.card.not_for),
        "limits": list(problem.card.limits),
    }


def _model(test: HeldOut, run: TrainedRun, training: Mapping[str, Any]) -> dict[str, Any]:
    vocabulary = test.model.vocabulary
    return {
        "run_id": run.run_id,
        "sha256": run.model_sha256,
        "form": training["form"].get("sentence", ""),
        "rounds": training["rounds"],
        "features": list(vocabulary.features),
        "classes": list(vocabulary.classes),
        "parameters": dict(training["parameters"]),
        "versions": dict(training["versions"]),
    }


def _data(run: TrainedRun, recorded: Recorded) -> dict[str, Any]:
    manifest = recorded.manifest
    return {
        "snapshot": run.snapshot.sha256,
        "problem_digest": manifest.problem_digest,
        "look_ahead": manifest.look_ahead.sentence if manifest.look_ahead else "Not checked.",
        "tables": [
            {"table": one.table.name, "version": one.table.version, "role": one.role, "files": len(one.files)}
            for one in manifest.inputs
        ],
        "sources": [{"uri": one.uri, "rows": one.rows, "sha256": one.sha256} for one in sources(recorded.lineage)],
    }


def _split(test: HeldOut, rows: Mapping[str, int]) -> dict[str, Any]:
    """The declared split, and for each side its rows and the days of its first and last decision."""
    split, frame = test.problem.split, test.trained
    sides = []
    for side, name in _SPANS.items():
        part = frame.filter(pc.equal(frame["split"], side))
        times = pc.min_max(part["decision_time"]).as_py() if "decision_time" in part.column_names else {}
        first, last = (times.get(end) for end in ("min", "max"))
        days = [moment.date().isoformat() if moment else None for moment in (first, last)]
        sides.append({"side": name, "rows": len(part), "first": days[0], "last": days[1]})
    declared = {name: value for name, value in dataclasses.asdict(split).items() if value is not None}
    return {
        "kind": type(split).__name__,
        "declared": {name: value if isinstance(value, int | float) else str(value) for name, value in declared.items()},
        "sides": sides,
        "rows": dict(rows),
    }


def _champion(problem: Problem, comparison: Comparison | None) -> dict[str, Any] | None:
    """Both models' metrics on the rows that neither was trained on, and their paired differences."""
    if comparison is None:
        return None
    found: dict[str, Any] = {
        "version": comparison.champion, "reason": comparison.reason, "rows": comparison.rows, "days": comparison.days,
        "loss": comparison.loss, "calibration": comparison.calibration, "cost": comparison.cost,
        "slices": list(comparison.slices), "metrics": {},
    }  # fmt: skip
    if comparison.pair is not None and comparison.blocks is not None:
        pair, blocks = comparison.pair, comparison.blocks
        sides = {"model": pair.model, "champion": pair.champion}
        found["metrics"] = {name: measure(problem.kind, pair.labels, out, blocks) for name, out in sides.items()}
    return found


def _predicted(test: HeldOut) -> Predicted:
    kind, output = test.problem.kind, test.core_predictions["model"]
    codes = np.empty(0) if kind == "regression" else decided_codes(test.model, output)
    in_time = "decision_time" in test.rows.column_names
    return Predicted(kind, test.model.vocabulary.classes, test.labels, output, codes, test.blocks, in_time)


def sample_warning(kind: Kind, part: Mapping[str, Any]) -> str:
    """Describe why the figures of a slice are uncertain; empty if they are not."""
    rows, metrics = int(part["rows"]), part["metrics"]
    if rows < _FEW_ROWS:
        return "small sample"
    base = metrics.get("base_rate", {}).get("value")
    if kind == "binary" and base is not None:
        positives = round(base * rows)
        few = min(positives, rows - positives)
        if few < _FEW_OF_A_CLASS:
            return f"small sample: {counted(few, 'row')} of one class"
    figures: list[Estimate] = list(metrics.values())
    return "" if figures and figures[0]["low"] is not None else "small sample: no interval"
