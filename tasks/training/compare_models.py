"""Compare models, registered or not, on test rows that none of them was trained on, and what they were made of."""

import json
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa

from tasks.features.trained_features import archived_problem_of, rows_as_trained, training_contract
from truecourse.errors import ModelError, TruecourseError
from truecourse.evaluation.model_comparison import SharedRows, conclude, describe_conclusion
from truecourse.evaluation.multiple_comparisons import coverage_of_each
from truecourse.evaluation.paired_comparison import obstacle, shortage, unseen_rows
from truecourse.lineage.snapshot_diff import text_diff
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame, snapshot_redacted_at
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import run_archive, runs
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store
from truecourse.wording import nearest

Side = ModelVersion | TrainedRun
_LONGEST_NUMBER = 7
"""Digits of a version's number; more are the start of a run's id."""
_SHORTEST_ID = 6


def find_side(problem: str, text: str) -> Side:
    """Find the version that a number, `champion` or `challenger` names, or the run of an id's first digits.

    Raises ModelError if there is none, or several."""
    if text in ("champion", "challenger") or (text.isdigit() and len(text) <= _LONGEST_NUMBER):
        return registry.version(problem, version_number(problem, text))
    ids = runs.run_ids(problem)
    found = [run_id for run_id in ids if run_id.startswith(text)] if len(text) >= _SHORTEST_ID else []
    if len(found) == 1:
        return runs.trained_run(problem, found[0])
    what = "no such model" if not found else f"{len(found)} runs have ids that start like this"
    hint = f"give a version's number, champion, challenger, or the start of a run's id: {nearest(text, ids)}"
    raise ModelError(what, where=f"{text} of problem {problem}", hint=hint)


def version_number(problem: str, text: str) -> int:
    """Return the version that a number, `champion` or `challenger` names. Raises ModelError if there is none."""
    if text.isdigit():
        return int(text)
    found = registry.champion(problem) if text == "champion" else registry.challenger(problem)
    if found is None:
        raise ModelError(f"there is no {text}", where=f"problem {problem}", hint="give a version's number")
    return found.version


def name_of(side: Side) -> str:
    return f"version {side.version}" if isinstance(side, ModelVersion) else f"run {side.run_id[:8]}"


@dataclass(frozen=True)
class _Opened:
    """A model with the problem that it was trained on and its training frame."""

    side: Side
    problem: Problem
    model: Model
    snapshot: str
    frame: pa.Table


def score_shared_rows(sides: Sequence[Side], preferred: int = 0) -> tuple[SharedRows | None, dict[int, str], int]:
    """Predict the test rows that no side was trained on, each side with the features that it was trained on.

    The rows are those of the side for which most are left, of equal ones the preferred one. Returns the rows with the
    predictions of the comparable sides; the reason for each other side, by place; and the number of rows. None: no
    side can be compared, or there are too few rows."""
    reasons: dict[int, str] = {}
    with ExitStack() as stack:
        opened = _open(stack, sides, reasons)
        if not opened:
            return None, reasons, 0
        rows, base = _shared_rows(opened, preferred)
        if short := shortage(rows):
            return None, reasons | dict.fromkeys(opened, short), len(rows)
        outputs = {}
        for place, one in opened.items():
            try:
                same = one.snapshot == opened[base].snapshot
                own = rows if same else rows_as_trained(opened[base].problem, one.side, rows)
                if reason := obstacle(own, opened[base].model, one.model):
                    raise ModelError(reason)
                outputs[place] = one.model.predict(matrix_of(one.model.vocabulary, own)).astype("float64")
            except TruecourseError as error:
                reasons[place] = error.what
        vocabulary = opened[base].model.vocabulary
        labels, scored = vocabulary.labels(rows), [outputs[place] for place in sorted(outputs)]
        rules = [opened[place].model.decision for place in sorted(outputs)]
        return SharedRows(opened[base].problem, rows, labels, scored, vocabulary.classes, rules), reasons, len(rows)


def _open(stack: ExitStack, sides: Sequence[Side], reasons: dict[int, str]) -> dict[int, _Opened]:
    """Open the models, by place; `reasons` gets those that cannot be opened. Files exist until the stack closes."""
    opened: dict[int, _Opened] = {}
    frames: dict[str, pa.Table] = {}
    for place, side in enumerate(sides):
        try:
            snapshot = runs.trained_run(side.problem, side.run_id).snapshot
            problem = stack.enter_context(archived_problem_of(side))
            model = registry.open_model(side, problem.kind)
            if snapshot.sha256 not in frames:
                frames[snapshot.sha256] = load_frame(open_store(), snapshot)
            opened[place] = _Opened(side, problem, model, snapshot.sha256, frames[snapshot.sha256])
        except TruecourseError as error:
            reasons[place] = error.what
    return opened


def _shared_rows(opened: Mapping[int, _Opened], preferred: int) -> tuple[pa.Table, int]:
    """The test rows that no model was trained on, and the place of the model whose they are."""
    frames = {one.snapshot: one.frame for one in opened.values()}
    left = {
        place: unseen_rows(
            one.problem, rows_of(one.frame, "test"), *(f for digest, f in frames.items() if digest != one.snapshot)
        )
        for place, one in opened.items()
    }
    base = max(left, key=lambda place: (len(left[place]), place == preferred))
    return left[base], base


def compare_models(sides: Sequence[Side]) -> dict[str, Any]:
    """Compare models of one problem with the first, which is the reference.

    {"kind": "comparison", "metric", "rows", "days", "coverage": of all intervals of differences, "models": one for each
    side, "comparisons": one for each side but the first}. A model has {"name", "version", "run_id", "snapshot",
    "model_sha256", "redacted", "reason": why it cannot be compared, or "", "metrics": with 95% intervals}. A comparison
    has the fields of compare_inputs() and, unless there is a `reason`, {"conclusion", "sentence", "metrics", "slices",
    "flipped"}: differences are the model's minus the reference's. With k models the intervals of a comparison cover
    1 - 2.5% / (k - 1). Raises ModelError if the reference cannot be compared."""
    shared, reasons, rows = score_shared_rows(sides)
    if 0 in reasons:
        where = f"{name_of(sides[0])} of problem {sides[0].problem}"
        raise ModelError(f"cannot be compared: {reasons[0]}", where=where, hint="name another model first")
    assert shared is not None
    coverage = coverage_of_each(len(sides) - 1)
    places = {place: number for number, place in enumerate(p for p in range(len(sides)) if p not in reasons)}
    metrics = shared.metrics()
    return {
        "kind": "comparison",
        "problem": sides[0].problem,
        "metric": shared.problem.metric,
        "rows": rows,
        "days": shared.days,
        "coverage": coverage,
        "models": [
            _model(side) | {"reason": reasons.get(p, ""), "metrics": metrics[places[p]] if p in places else {}}
            for p, side in enumerate(sides)
        ],
        "comparisons": [
            {"model": name_of(side), "reference": name_of(sides[0]), "reason": reasons.get(place, "")}
            | compare_inputs(sides[0], side)
            | (_compare(shared, places[place], (sides[0], side), coverage) if place in places else {})
            for place, side in enumerate(sides)
            if place
        ],
    }  # fmt: skip


def _model(side: Side) -> dict[str, Any]:
    snapshot = runs.trained_run(side.problem, side.run_id).snapshot
    redacted = snapshot_redacted_at(open_store(), snapshot)
    return {
        "name": name_of(side),
        "version": side.version if isinstance(side, ModelVersion) else None,
        "run_id": side.run_id,
        "snapshot": snapshot.sha256,
        "model_sha256": side.model_sha256,
        "redacted": redacted.date().isoformat() if redacted else None,
    }


def _compare(shared: SharedRows, number: int, sides: tuple[Side, Side], coverage: float) -> dict[str, Any]:
    differences = shared.differences(number, coverage)
    loss = differences[shared.problem.metric]
    reference, model = map(name_of, sides)
    return {
        "conclusion": conclude(loss),
        "sentence": describe_conclusion(shared.problem, model, reference, loss),
        "metrics": differences,
        "slices": shared.slices(number, coverage),
        "flipped": shared.flipped(number),
    }


def compare_inputs(before: Side, after: Side) -> dict[str, Any]:
    """Compare what two models were made of: {"same_bytes", "parameters", "libraries", "features", "code"}.

    Parameters and libraries: {name: [first, second]} of those that differ. `features`: names that were added, removed
    or redefined. `code`: a unified diff of the archived folders, by file."""
    accounts = [json.loads(runs.artifact(side.run_id, "training.json")) for side in (before, after)]
    return {
        "same_bytes": before.model_sha256 == after.model_sha256,
        "parameters": _changed(*map(_parameters, accounts)),
        "libraries": _changed(*(account["versions"] for account in accounts)),
        "features": _features(before, after),
        "code": file_diffs(archived_files(before), archived_files(after)),
    }


def _parameters(account: Mapping[str, Any]) -> dict[str, Any]:
    return {**account["parameters"], "chosen rounds": account["rounds"], "form": account["form"].get("sentence")}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*before, *after])
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _features(before: Side, after: Side) -> dict[str, list[str]]:
    """The features that only one model has, and those with another definition."""
    sides = [training_contract(side).definitions for side in (before, after)]
    return {
        "added": [name for name in sides[1] if name not in sides[0]],
        "removed": [name for name in sides[0] if name not in sides[1]],
        "redefined": [name for name in sides[0] if name in sides[1] and sides[0][name] != sides[1][name]],
    }


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


def archived_files(side: Side) -> dict[str, bytes]:
    """Return the files of the problem's folder as archived with the training run."""
    packed = BytesIO(runs.artifact(side.run_id, run_archive.FOLDER))
    with tarfile.open(fileobj=packed, mode="r:gz") as tar:
        return {m.name: file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) is not None}
