"""Compare two model versions: parameters, code, features, and metrics and predictions on the same test rows."""

import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.features.trained_features import archived_problem_of, rows_as_trained, training_contract
from truecourse.arrays import Array
from truecourse.errors import ModelError, TruecourseError
from truecourse.evaluation.paired_comparison import Pair, obstacle, unseen_rows
from truecourse.lineage.snapshot_diff import text_diff
from truecourse.lineage.source_rows import FIRST
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import predicted_label
from truecourse.modeling.snapshot import load_frame, snapshot_redacted_at
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import run_archive, runs
from truecourse.registry import versions as registry
from truecourse.registry.scorecard import evaluation
from truecourse.statistics.intervals import Estimate, estimate
from truecourse.statistics.metrics import blocks_of, influence, samples
from truecourse.storage.object_store import open_store


def compare_versions(problem: str, one: int, other: int) -> dict[str, Any]:
    """Compare two versions: {"kind": "model", "from", "to", "parameters", "features", "code", "snapshots", "redacted",
    "recorded", "test"}. Differences are the second minus the first.

    `redacted`: as in diff_snapshots(). `code`: a unified diff of the archived folders, by file. `recorded`: each
    version's metrics when it was evaluated. `test`: see compare_on_test_rows(). Raises ModelError for an unknown
    version."""
    before, after = registry.version(problem, one), registry.version(problem, other)
    accounts = [json.loads(runs.artifact(version.run_id, "training.json")) for version in (before, after)]
    snapshots = [runs.trained_run(problem, version.run_id).snapshot for version in (before, after)]
    redacted = [snapshot_redacted_at(open_store(), one) for one in snapshots]
    return {
        "kind": "model",
        "from": before.model_dump(),
        "to": after.model_dump(),
        "same_bytes": before.model_sha256 == after.model_sha256,
        "parameters": _changed(*map(_parameters, accounts)),
        "libraries": _changed(*(account["versions"] for account in accounts)),
        "features": _features(before, after),
        "code": code_diff(before, after),
        "snapshots": [one.sha256 for one in snapshots],
        "redacted": [at.date().isoformat() if at else None for at in redacted],
        "recorded": [evaluation(version).get("metrics", {}).get("model", {}) for version in (before, after)],
        "test": compare_on_test_rows(before, after),
    }


def _parameters(account: Mapping[str, Any]) -> dict[str, Any]:
    return {**account["parameters"], "chosen rounds": account["rounds"], "form": account["form"].get("sentence")}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*before, *after])
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _features(before: ModelVersion, after: ModelVersion) -> dict[str, list[str]]:
    """The features that only one version has, and those with another definition."""
    sides = [training_contract(version).definitions for version in (before, after)]
    return {
        "added": [name for name in sides[1] if name not in sides[0]],
        "removed": [name for name in sides[0] if name not in sides[1]],
        "redefined": [name for name in sides[0] if name in sides[1] and sides[0][name] != sides[1][name]],
    }


def code_diff(before: ModelVersion, after: ModelVersion) -> dict[str, list[str]]:
    """Return the lines of a unified diff of the archived problems, by file."""
    return file_diffs(archived_files(before), archived_files(after))


def file_diffs(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Return the lines of a unified diff, by file. Binary files are not compared by line."""
    found = {}
    for name in sorted({*before, *after}):
        contents = [side.get(name, b"") for side in (before, after)]
        if contents[0] == contents[1]:
            continue
        try:
            texts = [content.decode().splitlines() for content in contents]
        except UnicodeDecodeError:
            found[name] = ["the bytes differ"]
        else:
            found[name] = text_diff(name, *texts)
    return found


def archived_files(version: ModelVersion) -> dict[str, bytes]:
    """Return the files of the problem's folder as archived with the version's training run."""
    packed = BytesIO(runs.artifact(version.run_id, run_archive.FOLDER))
    with tarfile.open(fileobj=packed, mode="r:gz") as tar:
        return {m.name: file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) is not None}


def compare_on_test_rows(before: ModelVersion, after: ModelVersion) -> dict[str, Any]:
    """Compare both models on the second's test rows that the first was not trained on, each with its own features.

    {"reason": why they cannot be compared, or "", "rows", "days", "metrics": {name: {"from", "to", "difference" with
    its paired 95% interval}}, "slices": differences of the loss, with simultaneous intervals, "flipped"}."""
    try:
        with archived_problem_of(after) as problem:
            frames = [load_frame(open_store(), runs.trained_run(v.problem, v.run_id).snapshot) for v in (before, after)]
            models = [registry.open_model(version, problem.kind) for version in (before, after)]
            rows = unseen_rows(problem, rows_of(frames[1], "test"), frames[0])
            own = rows_as_trained(problem, before, rows)
            reason = obstacle(own, models[1], models[0])
            if reason:
                return {"reason": reason.replace("its ", f"version {before.version}: its ", 1), "rows": len(rows)}
            return {"reason": "", **_compare(problem, rows, models, [own, rows])}
    except TruecourseError as error:
        return {"reason": error.what, "rows": 0}


def _compare(problem: Problem, rows: pa.Table, models: list[Model], sides: list[pa.Table]) -> dict[str, Any]:
    blocks, labels = blocks_of(rows), models[1].vocabulary.labels(rows)
    outputs = [
        m.predict(matrix_of(m.vocabulary, side)).astype(np.float64) for m, side in zip(models, sides, strict=True)
    ]
    in_time = "decision_time" in rows.column_names
    pair = Pair(problem, labels, outputs[1], outputs[0], in_time)
    return {
        "rows": len(rows),
        "days": len(np.unique(blocks)) if in_time else None,
        "metrics": metric_differences(problem, labels, outputs, blocks, in_time)
        | {"calibration_error": {"difference": pair.calibration(blocks)}},
        "slices": list(pair.slices(rows, blocks)),
        "flipped": flipped(problem, models[1], rows, labels, outputs),
    }


def metric_differences(
    problem: Problem, labels: Array, outputs: list[Array], blocks: Array, in_time: bool
) -> dict[str, dict[str, Any]]:
    """Return every metric of both outputs, and their paired difference with its 95% interval.

    The interval comes from each block's influence on the difference (truecourse.statistics.metrics)."""
    blocks = np.unique(blocks, return_inverse=True)[1]
    found = [samples(problem.kind, labels.astype(np.float64), output, blocks) for output in outputs]
    return {
        name: {
            "from": _number(found[0][name]),
            "to": _number(found[1][name]),
            "difference": _difference(found[1][name] - found[0][name], in_time),
        }
        for name in found[0]
        if name != "base_rate"
    }


def _number(values: Array) -> float | None:
    return float(values[0]) if np.isfinite(values[0]) else None


def _difference(values: Array, in_time: bool) -> Estimate:
    return estimate(float(values[0]), influence(values), successive=in_time)


def flipped(problem: Problem, model: Model, rows: pa.Table, labels: Array, outputs: list[Array]) -> dict[str, Any]:
    """Count the rows with another predicted class by which version is right, and list those that moved most.

    Of a regression: the rows whose prediction moved by more than a tenth of the label's standard deviation."""
    ids = rows["id"].to_pylist()
    moved = np.abs(outputs[1] - outputs[0]).reshape(len(ids), -1).max(axis=1)
    if problem.kind == "regression":
        chosen = moved > 0.1 * float(np.std(labels))
        predicted: list[list[Any]] = [output.tolist() for output in outputs]
        truth: list[Any] = labels.tolist()
        errors = [np.abs(output - labels) for output in outputs]
        by = Counter(np.where(errors[1] < errors[0], "nearer", "farther")[chosen].tolist())
    else:
        classes = model.vocabulary.classes
        predicted = [[predicted_label(problem.kind, classes, one) for one in output.tolist()] for output in outputs]
        truth = [classes[int(code)] for code in labels]
        chosen = np.array([a != b for a, b in zip(*predicted, strict=True)], dtype=bool)
        by = Counter(_outcome(predicted[0][i], predicted[1][i], truth[i]) for i in np.flatnonzero(chosen))
    order = [int(i) for i in np.argsort(-moved, kind="stable") if chosen[i]]
    first = [{"id": ids[i], "label": truth[i], "from": predicted[0][i], "to": predicted[1][i]} for i in order[:FIRST]]
    return {"count": len(order), "by": dict(by), "first": first}


def _outcome(before: Any, after: Any, truth: Any) -> str:
    return "right now" if after == truth else "wrong now" if before == truth else "wrong in both"


def version_number(problem: str, text: str) -> int:
    """Return the version that a number, `champion` or `challenger` names. Raises ModelError if there is none."""
    if text.isdigit():
        return int(text)
    found = registry.champion(problem) if text == "champion" else registry.challenger(problem)
    if found is None:
        raise ModelError(f"there is no {text}", where=f"problem {problem}", hint="give a version's number")
    return found.version
