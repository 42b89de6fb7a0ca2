"""Recompute what was logged: request features from the request, and scores from the features."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from truecourse.arrays import Array
from truecourse.features.frame import compute_request_features
from truecourse.modeling.model import Model
from truecourse.monitoring.predictions.log_sample import LogSample, feature_kind
from truecourse.monitoring.skew.causes import CODE, Mismatch, equal_values
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry

SCORE, MODEL = "score", "model"


def find_request_mismatches(problem: Problem, logged: LogSample) -> tuple[list[Mismatch], list[str]]:
    """Compare features that depend on the request alone. Returns the mismatches, and the features that cannot be
    compared because the log hides them or their inputs."""
    columns, places = logged.request.columns, np.array(logged.request.accepted, dtype=np.int64)
    declared = problem.request_features
    views = {name for view in problem.views for name in view.features}
    not_compared = sorted(name for name in problem.features if name not in views and name in logged.hidden)
    if declared is not None:
        if logged.hidden.isdisjoint(declared.inputs):
            inputs = {name: columns[name] for name in declared.inputs}
            columns = columns | dict(compute_request_features(problem, inputs, len(places)))
        else:
            not_compared = sorted({*not_compared, *declared.features})
    mismatches = []
    for name, column in problem.features.items():
        if name in views or name in not_compared or not logged.has_feature(name):
            continue
        kind = feature_kind(column)
        differs = ~equal_values(logged.feature(name, kind)[places], _normalize(columns[name], kind))
        if differs.any():
            mismatches.append(Mismatch(name, CODE, len(places), places[differs], {name: int(differs.sum())}))
    return mismatches, not_compared


def _normalize(values: Array, kind: str) -> Array:
    if kind != "category":
        return np.asarray(values, dtype=np.float64)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [value if isinstance(value, str) else None for value in values]
    return texts


@dataclass(frozen=True)
class ScoreComparison:
    """`compared`: rows whose score was recomputed; `hidden`: whether some were not, because the log hides an input."""

    mismatches: list[Mismatch]
    compared: int
    hidden: bool


def find_score_mismatches(problem: Problem, logged: LogSample) -> ScoreComparison:
    """Find logged scores that the logged model does not give for the logged features. Models with inputs that the log
    hides are skipped. Raises IntegrityError if a model's bytes were changed."""
    registered = {(version.version, version.model_sha256): version for version in registry.versions(problem.name)}
    differing, unknown, compared, hidden = [], [], 0, False
    for identity, places in logged.models():
        if identity not in registered:
            unknown.append(places)
            continue
        model = _open_model(registered[identity], problem.kind)
        kinds = model.vocabulary.kinds
        if not all(logged.has_feature(name) for name in kinds):
            hidden = True
            continue
        columns = {name: logged.feature(name, kind)[places] for name, kind in kinds.items()}
        output = model.predict(model.vocabulary.encode(columns)).astype(np.float64)
        logged_output = logged.outputs(model.vocabulary.classes)[places]
        equal = (
            np.isclose(output, logged_output, rtol=1e-5, atol=1e-7, equal_nan=True).reshape(len(places), -1).all(axis=1)
        )
        differing.append(places[~equal])
        compared += len(places)
    mismatches = []
    for subject, parts, of in ((SCORE, differing, compared), (MODEL, unknown, len(logged))):
        rows = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        if len(rows):
            mismatches.append(Mismatch(subject, CODE, of, rows, {subject: len(rows)}))
    return ScoreComparison(mismatches, compared, hidden)


@lru_cache(maxsize=8)
def _open_model(version: ModelVersion, kind: Kind) -> Model:
    """Open a model. The cache is safe across registries because a version includes the model's digest."""
    return registry.open_model(version, kind)
