"""Recompute the request features, view features and scores of a sample of logged predictions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.data.arrow_types import arrow_type
from truecourse.features.frame import compute_request_features
from truecourse.features.view_sql import key_columns
from truecourse.modeling.model import Model
from truecourse.monitoring.predictions.log_sample import LogSample, feature_kind
from truecourse.monitoring.skew.causes import CODE, Cause, Mismatch, ServedValues, equal_values, find_mismatches
from truecourse.monitoring.skew.view_history import HistoryReader, read_history
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.namespace import AnyView
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import changed_parts, trained_problem
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted

SCORE, MODEL = "score", "model"


@dataclass
class Audit:
    """`compared`: number of rows by view, and for `request` and `score`. `not_compared`: names by reason."""

    mismatches: list[Mismatch] = field(default_factory=list)
    compared: dict[str, int] = field(default_factory=dict)
    not_compared: dict[str, list[str]] = field(default_factory=dict)

    def exclude(self, reason: str, names: Iterable[str]) -> None:
        if excluded := list(names):
            self.not_compared.setdefault(reason, []).extend(excluded)


def audit_sample(
    problem: Problem, tables: Tables, logged: LogSample, now: datetime, histories: HistoryReader = read_history
) -> Audit:
    """Recompute the sample's features and scores. Reads nothing recorded after `now` (naive UTC)."""
    if not len(logged):
        return Audit()
    audits = []
    for own, places in _by_trained_problem(problem, logged):
        sample = logged.part(own, places)
        audit = audit_inputs(own, tables, sample, now, histories if own is problem else read_history)
        scores = find_score_mismatches(own, sample)
        audit.mismatches += scores.mismatches
        audit.compared["score"] = scores.compared
        audit.exclude("the model's inputs are hidden in the log", ["score"] if scores.hidden else [])
        audits.append((audit, places))
    return _merged(audits)


def _by_trained_problem(problem: Problem, logged: LogSample) -> Iterator[tuple[Problem, Array]]:
    """Yield the problems as the models of the sample were trained on them, with the indices of their predictions.

    `problem` stands for versions whose part of it has not changed, and for models that are not in the registry."""
    registered, current = _registered(problem), []
    for identity, places in logged.models():
        version = registered.get(identity)
        if version is None or not changed_parts(problem, version):
            current.append(places)
            continue
        with trained_problem(problem, version) as own:
            yield own, places
    if current:
        yield problem, np.sort(np.concatenate(current))


def _merged(audits: Sequence[tuple[Audit, Array]]) -> Audit:
    """Join audits of parts of a sample. An array holds the indices of a part's rows in the sample."""
    if len(audits) == 1:
        return audits[0][0]
    merged, joined = Audit(), dict[tuple[str, Cause], Mismatch]()
    for audit, places in audits:
        for one in audit.mismatches:
            mismatch = replace(one, places=places[one.places])
            before = joined.get((one.subject, one.cause))
            joined[one.subject, one.cause] = mismatch if before is None else before.joined(mismatch)
        for subject, rows in audit.compared.items():
            merged.compared[subject] = merged.compared.get(subject, 0) + rows
        for reason, names in audit.not_compared.items():
            known = merged.not_compared.get(reason, [])
            merged.exclude(reason, [name for name in names if name not in known])
    merged.mismatches = list(joined.values())
    return merged


def audit_inputs(
    problem: Problem, tables: Tables, logged: LogSample, now: datetime, histories: HistoryReader = read_history
) -> Audit:
    """Recompute the features of a sample that is not empty. Reads nothing recorded after `now` (naive UTC)."""
    audit, rows = Audit(), logged.request
    refused = len(logged) - len(rows)
    audit.exclude("the request violates the contract", [f"{counted(refused, 'prediction')}"] if refused else [])
    if len(rows):
        mismatches, hidden = find_request_mismatches(problem, logged)
        audit.mismatches += mismatches
        audit.compared["request"] = len(rows)
        audit.exclude("hidden in the log", hidden)
        _compare_views(problem, tables, logged, now, audit, histories)
    return audit


def _compare_views(
    problem: Problem, tables: Tables, logged: LogSample, now: datetime, audit: Audit, histories: HistoryReader
) -> None:
    views = [view for view in problem.views if _is_comparable(problem, logged, view, audit)]
    if not views:
        return
    places = np.array(logged.request.accepted, dtype=np.int64)
    decided, requested = logged.decided[places], logged.at[places]
    events = {view.name: logged.events(next(iter(view.features)))[places] for view in views}
    loaded = _loaded_to(requested, list(events.values()))
    first, last = decided.min().item(), max(decided.max(), requested.max()).item()
    for view in views:
        history = histories(problem, tables, view, first, last, now)
        if history is None:
            audit.exclude("never computed", [view.name])
            continue
        columns = problem.view_columns(view)
        logged_features = {name: column for name, column in columns.items() if logged.has_feature(name)}
        values = {name: logged.feature(name, feature_kind(column))[places] for name, column in logged_features.items()}
        keys = _keys(problem, view, logged)
        audit.mismatches += find_mismatches(
            history, ServedValues(keys, values, events[view.name], decided, requested, loaded, places)
        )
        audit.compared[view.name] = len(places)


def _is_comparable(problem: Problem, logged: LogSample, view: AnyView, audit: Audit) -> bool:
    """Whether the view can be compared: its keys are in the log."""
    if any(key in logged.hidden for key in key_columns(problem, view)):
        audit.exclude("its key is hidden in the log", [view.name])
        return False
    audit.exclude("hidden in the log", (name for name in view.features if name in logged.hidden))
    return True


def _keys(problem: Problem, view: AnyView, logged: LogSample) -> pl.DataFrame:
    """Return the keys that the requests looked up, with the types of the feature table."""
    rows, columns = logged.request, {}
    for name, column in key_columns(problem, view).items():
        columns[name] = pa.array(rows.values[name], arrow_type(column), from_pandas=True)
    return pl.DataFrame(pa.table(columns))


def _loaded_to(requested: Array, events: Sequence[Array]) -> Array:
    """Return for each request the newest event time served up to then: the online store was loaded at least so far."""
    order = np.argsort(requested, kind="stable")
    newest = np.fmax.accumulate(np.fmax.reduce(np.stack(events))[order])
    return np.asarray(newest[np.searchsorted(requested[order], requested, side="right") - 1])


def find_request_mismatches(problem: Problem, logged: LogSample) -> tuple[list[Mismatch], list[str]]:
    """Compare features that depend on the request alone. Returns the mismatches, and the features that cannot be
    compared because the log hides them or their inputs."""
    columns, places = logged.request.columns, np.array(logged.request.accepted, dtype=np.int64)
    declared = problem.computed_features
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
    registered = _registered(problem)
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


def _registered(problem: Problem) -> dict[tuple[int, str], ModelVersion]:
    """The versions in the registry, by number and the model's SHA-256."""
    return {(version.version, version.model_sha256): version for version in registry.versions(problem.name)}


@lru_cache(maxsize=8)
def _open_model(version: ModelVersion, kind: Kind) -> Model:
    """Open a model. The cache is safe across registries because a version includes the model's digest."""
    return registry.open_model(version, kind)
