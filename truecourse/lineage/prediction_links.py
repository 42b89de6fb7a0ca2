"""Verification of a recorded prediction: its file's digest; its score, prediction, explanation and inputs, recomputed.

The score is recomputed with the recorded model and features; the features from the request and the feature tables, with
the problem that was archived at training.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.data.sources import scratch
from truecourse.errors import TruecourseError
from truecourse.features.definition_digests import feature_table, view_digest
from truecourse.lineage.batch_inputs import batch_input_links
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import attributions, predicted_label
from truecourse.monitoring.predictions.log_sample import COLUMNS, LogSample
from truecourse.monitoring.skew.causes import CODE, MISSING
from truecourse.monitoring.skew.feature_audit import Audit, audit_inputs
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import archived_problem
from truecourse.serving.prediction_log import record_table
from truecourse.serving.privacy import HASHED
from truecourse.serving.rows import object_array
from truecourse.storage import file_digests
from truecourse.storage.delta_tables import Tables
from truecourse.storage.lineage_links import Link, link, unknown_link

Record = Mapping[str, Any]


def prediction_links(tables: Tables, record: Record, version: ModelVersion) -> list[Link]:
    """Verify a record of prediction_log.find_records() or batch_scoring.find_scored_rows()."""
    links = [_model_link(record, version), file_digests.verify(tables.store, record["file"])]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        try:
            problem = archived_problem(version, folder)
            model = registry.open_model(version, problem.kind)
        except TruecourseError as error:
            why = f"its model or archived problem cannot be opened: {error.what}"
            return [*links, unknown_link("score", _id(record), why), unknown_link("inputs", _id(record), why)]
        links += answer_links(problem, model, record)
        inputs = batch_input_links if "batch" in record and "values" in record else _logged_input_links
        links += inputs(tables, problem, record)
    return links


def _id(record: Record) -> str:
    return str(record.get("prediction_id") or record.get("id"))


def _model_link(record: Record, version: ModelVersion) -> Link:
    detail = f"predicted by version {record['model_version']}, SHA-256 {record['model_sha256']}"
    same = record["model_sha256"] == version.model_sha256
    return link("prediction", _id(record), same, detail if same else f"{detail}, which is not that version's")


def answer_links(problem: Problem, model: Model, record: Record) -> list[Link]:
    """Recompute score, prediction and explanation from the recorded features."""
    id, vocabulary = _id(record), model.vocabulary
    given = record["values"] if "values" in record else record["features"]
    if record.get("score") is None and not record.get("scores"):
        return [unknown_link("score", id, f"no prediction: {record.get('error') or 'no score is recorded'}")]
    if absent := [name for name in vocabulary.features if name not in given]:
        return [unknown_link("score", id, f"the record lacks the model's inputs {', '.join(absent[:3])}")]
    columns = {name: _column(kind, given[name]) for name, kind in vocabulary.kinds.items()}
    if masked := [name for name, values in columns.items() if values is None]:
        return [unknown_link("score", id, f"the record hides the model's inputs {', '.join(masked[:3])}")]
    matrix = vocabulary.encode({name: values for name, values in columns.items() if values is not None})
    output = model.predict(matrix).astype(np.float64)
    recorded = np.array([_output(problem, vocabulary, record)], dtype=np.float64)
    same = _near(output, recorded)
    different = f"recorded {recorded.tolist()[0]}, computed from the recorded features {output.tolist()[0]}"
    links = [link("score", id, same, "computed again from the recorded features, equal" if same else different)]
    answer, scored = record["prediction"], recorded.tolist()[0]
    expected = predicted_label(problem.kind, vocabulary.classes, scored, model.decision)
    number = problem.kind == "regression"
    right = _near(float(answer), float(expected)) if number else str(answer) == str(expected)
    links.append(link("answer", id, right, f"{answer}" if right else f"recorded {answer}, by the score {expected}"))
    if model.interval is not None and record.get("lower") is not None:
        links.append(_interval_link(id, model.interval.bounds(matrix, recorded), record))
    if (explained := _explained(record)) is not None:
        links.append(_explanation_link(id, model, matrix, *explained))
    return links


def _interval_link(id: str, bounds: tuple[Array, Array], record: Record) -> Link:
    recorded, expected = (record["lower"], record["upper"]), tuple(float(one[0]) for one in bounds)
    right, text = _near(recorded, expected), f"{recorded[0]:g} to {recorded[1]:g}"
    different = f"recorded {text}, by the score {expected[0]:g} to {expected[1]:g}"
    return link("interval", id, right, text if right else different)


def _near(a: Any, b: Any) -> bool:
    """Return whether recomputed numbers are equal within a few float32 steps."""
    return bool(np.isclose(a, b, rtol=1e-5, atol=1e-6).all())


def _column(kind: str, value: Any) -> Array | None:
    """Convert a recorded value for encode(); None if the log masks it, or it is not of this kind."""
    if isinstance(value, str) and value.startswith(HASHED):
        return None
    if kind == "category":
        return object_array([value])
    if value is not None and not isinstance(value, int | float):
        return None
    return np.array([value], dtype=np.float64)


def _output(problem: Problem, vocabulary: Vocabulary, record: Record) -> Any:
    if problem.kind != "multiclass":
        return record["score"]
    return [record["scores"].get(name) for name in vocabulary.classes]


def _explained(record: Record) -> tuple[float, dict[str, float]] | None:
    """Return the recorded base and contributions by feature; None without an explanation."""
    found = record.get("contributions")
    if found is None:
        return None
    if isinstance(found, str):
        document = json.loads(found)
        return document["base"], document["contributions"]
    return record["base"], {one["feature"]: one["contribution"] for one in found}


def _explanation_link(id: str, model: Model, matrix: Array, base: float, recorded: Mapping[str, float]) -> Link:
    bases, _, parts = attributions(model, matrix)
    expected = dict(zip(model.vocabulary.features, parts[0].tolist(), strict=True))
    wrong = [name for name, share in expected.items() if not _near(recorded.get(name, np.nan), share)]
    wrong += [] if _near(base, float(bases[0])) else ["the base"]
    same = "base and contributions computed again, equal"
    return link(
        "explanation", id, not wrong, same if not wrong else f"computed again, different: {', '.join(wrong[:3])}"
    )


def _logged_input_links(tables: Tables, problem: Problem, record: Record) -> Iterator[Link]:
    """Compute request features again, and look up view features again as of the decision time."""
    logged = LogSample(problem, record_table(record).select(COLUMNS), 1)
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    try:
        audit = audit_inputs(problem, tables, logged, now)
    except (TruecourseError, pa.ArrowInvalid, KeyError) as error:
        yield unknown_link("inputs", _id(record), f"cannot be computed again: {error}")
        return
    yield from _audit_links(tables, problem, record, audit)


def _audit_links(tables: Tables, problem: Problem, record: Record, audit: Audit) -> Iterator[Link]:
    id, views = _id(record), {view.name: view for view in problem.views}
    of_view = {name: view.name for view in problem.views for name in view.features}
    wrong: dict[str, list[str]] = {}
    causes: dict[str, list[str]] = {}
    for mismatch in audit.mismatches:
        subject = of_view.get(mismatch.subject, mismatch.subject)
        subject = subject if subject in views else "request"
        names = sorted(mismatch.features)
        if mismatch.cause in (CODE, MISSING):
            wrong.setdefault(subject, []).extend(names)
        else:
            causes.setdefault(subject, []).append(f"{', '.join(names[:3])} by {mismatch.cause}")
    for subject in audit.compared:
        kind = "request features" if subject == "request" else f"features of view {subject}"
        if subject in views and (why := redefinition_reason(tables, problem, subject)):
            yield unknown_link(kind, id, why)
        elif subject in wrong:
            features = ", ".join(wrong[subject][:5])
            yield link(kind, id, False, f"computed again, different: {features}")
        else:
            detail = f"computed again, equal except {'; '.join(causes[subject])}" if subject in causes else ""
            yield link(kind, id, True, detail or "computed again, equal")
    for reason, names in audit.not_compared.items():
        yield unknown_link("inputs", id, f"{', '.join(names[:5])}: {reason}")


def redefinition_reason(tables: Tables, problem: Problem, view: str, version: int | None = None) -> str:
    """Describe why a feature table does not match the problem's definition of a view; empty if it does."""
    name = feature_table(problem, view)
    if not tables.exists(name):
        return "no feature table was computed with this definition of the view"
    commits = [commit for number, commit in tables.commits(name) if version is None or number <= version]
    recorded = commits[-1].get("view_digest") if commits else None
    if recorded is not None and recorded != view_digest(problem, problem.view(view)):
        return "the view's definition was different when its table was computed"
    return ""
