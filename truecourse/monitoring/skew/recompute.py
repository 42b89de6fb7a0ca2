"""Computing again what was logged: request features from the request, and scores from the features."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from truecourse.arrays import Array
from truecourse.features.frame import request_features
from truecourse.modeling.model import Model
from truecourse.monitoring.predictions.log_sample import LogSample, feature_kind
from truecourse.monitoring.skew.causes import CODE, Mismatch, equal_values
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry

SCORE, MODEL = "score", "model"


def request_mismatches(problem: Problem, logged: LogSample) -> tuple[list[Mismatch], list[str]]:
    """Features that come from the request alone and are not what it gives; and those that cannot be compared, because
    the log hides them or what they come from."""
    columns, places = logged.request.columns, np.array(logged.request.accepted, dtype=np.int64)
    declared = problem.request_features
    views = {name for view in problem.views for name in view.features}
    closed = sorted(name for name in problem.features if name not in views and name in logged.hidden)
    if declared is not None:
        if logged.hidden.isdisjoint(declared.inputs):
            inputs = {name: columns[name] for name in declared.inputs}
            columns = columns | dict(request_features(problem, inputs, len(places)))
        else:
            closed = sorted({*closed, *declared.features})
    found = []
    for name, column in problem.features.items():
        if name in views or name in closed or not logged.has_feature(name):
            continue
        kind = feature_kind(column)
        wrong = ~equal_values(logged.feature(name, kind)[places], _plain(columns[name], kind))
        if wrong.any():
            found.append(Mismatch(name, CODE, len(places), places[wrong], {name: int(wrong.sum())}))
    return found, closed


def _plain(values: Array, kind: str) -> Array:
    if kind != "category":
        return np.asarray(values, dtype=np.float64)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [value if isinstance(value, str) else None for value in values]
    return texts


@dataclass(frozen=True)
class ScoreComparison:
    """`compared`: rows whose score was computed again; `hidden`: some were not, for the log hides what goes in."""

    mismatches: list[Mismatch]
    compared: int
    hidden: bool


def score_mismatches(problem: Problem, logged: LogSample) -> ScoreComparison:
    """Scores that the logged model does not give for the logged features. A model whose inputs are hidden in the log
    cannot be asked again. Raises IntegrityError for a model whose bytes were changed."""
    registered = {(one.version, one.model_sha256): one for one in registry.versions(problem.name)}
    wrong, unknown, compared, hidden = [], [], 0, False
    for identity, places in logged.models():
        if identity not in registered:
            unknown.append(places)
            continue
        model = _opened(registered[identity], problem.kind)
        kinds = model.vocabulary.kinds
        if not all(logged.has_feature(name) for name in kinds):
            hidden = True
            continue
        columns = {name: logged.feature(name, kind)[places] for name, kind in kinds.items()}
        output = model.predict(model.vocabulary.encode(columns)).astype(np.float64)
        told = logged.outputs(model.vocabulary.classes)[places]
        equal = np.isclose(output, told, rtol=1e-5, atol=1e-7, equal_nan=True).reshape(len(places), -1).all(axis=1)
        wrong.append(places[~equal])
        compared += len(places)
    found = []
    for subject, parts, of in ((SCORE, wrong, compared), (MODEL, unknown, len(logged))):
        rows = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        if len(rows):
            found.append(Mismatch(subject, CODE, of, rows, {subject: len(rows)}))
    return ScoreComparison(found, compared, hidden)


@lru_cache(maxsize=8)
def _opened(version: ModelVersion, kind: Kind) -> Model:
    """Its bytes are those of the digest: whichever registry it came from, it is the same model."""
    return registry.open_model(version, kind)
