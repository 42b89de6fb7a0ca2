"""Compute features by the definitions that a model was trained on, even if the problem has changed since."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from tasks.features.decision_frame import feature_versions, with_view_features
from truecourse.data.sources import scratch
from truecourse.data.sql import clean_versions
from truecourse.errors import ModelError, TruecourseError
from truecourse.evaluation.paired_comparison import FeatureLookup
from truecourse.features import frame as frames
from truecourse.features.definition_digests import is_label_redefined, redefined_features
from truecourse.features.feature_tables import compute_view
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TableVersion, TrainedRun, Window, naive_utc
from truecourse.registry import runs
from truecourse.registry.trained_problem import archived_problem
from truecourse.serving.contract import Contract
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted, counted_of


def rows_as_trained_by(problem: Problem, version: ModelVersion | TrainedRun) -> FeatureLookup:
    """A function that computes a version's features, as it was trained on them, for the problem's rows.

    The function raises ModelError if features cannot be computed any more, which it names, or if the label is defined
    differently."""
    return partial(rows_as_trained, problem, version)


def training_contract(version: ModelVersion | TrainedRun) -> Contract:
    return Contract.from_json(runs.artifact(version.run_id, "model/contract.json"))


def rows_as_trained(problem: Problem, version: ModelVersion | TrainedRun, rows: pa.Table) -> pa.Table:
    """Rows with the features as the version was trained on them. `rows`: with the problem's current features.

    Raises ModelError if they cannot be computed any more, or if the label is defined differently."""
    contract, where = training_contract(version), f"problem {problem.name}"
    if is_label_redefined(problem, contract.label_definition):
        hint = f"truecourse run train --problem {problem.name}; compare models of the same label"
        raise ModelError("its label was redefined since it was trained", where=where, hint=hint)
    names = redefined_features(problem, contract.definitions, contract.definitions)
    if not names or not len(rows):
        return rows
    with archived_problem_of(version) as own:
        _require_computable(problem, own, contract, names)
        try:
            features = _compute(own, rows, names)
        except TruecourseError as error:
            what = f"its features {list_names(names)} were redefined, and computing the old definition failed"
            raise ModelError(f"{what}: {error.what}", where=where) from error
    return _replace_columns(rows, features, names, where)


def trained_feature_versions(
    problem: Problem, own: Problem, tables: Tables, contract: Contract, names: Sequence[str]
) -> dict[str, TableVersion]:
    """The feature tables of `own`, the problem as a version was trained on it; computed if it was edited since.

    `names`: features that are read from the problem's tables. Raises ModelError if their definition cannot be computed
    any more, FeatureError if values that they need are unknown after an edit of the tables."""
    if own is problem:
        return feature_versions(problem, tables, clean_versions(problem, tables))
    _require_computable(problem, own, contract, redefined_features(problem, contract.definitions, names))
    return {view.name: compute_view(own, tables, view.name) for view in own.views}


def _require_computable(problem: Problem, own: Problem, contract: Contract, names: Sequence[str]) -> None:
    """Raise ModelError if this release computes redefined features of `own` by another definition than recorded."""
    if lost := redefined_features(own, contract.definitions, names):
        what = f"its features {list_names(lost)} were redefined, and the old definition cannot be computed any more"
        hint = f"truecourse run train --problem {problem.name}"
        raise ModelError(what, where=f"problem {problem.name}", hint=hint)


@contextmanager
def archived_problem_of(version: ModelVersion | TrainedRun) -> Iterator[Problem]:
    """The problem as archived with the version's training run; its files exist until the block ends."""
    with scratch() as folder:
        yield archived_problem(version, folder)


def _compute(own: Problem, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The decisions of these rows with their `id` and at least the named features."""
    tables = Tables()
    own = dataclasses.replace(own, views=tuple(view for view in own.views if set(view.features) & set(names)))
    versions = {view.name: compute_view(own, tables, view.name) for view in own.views}
    window = None
    if "decision_time" in rows.column_names:
        bounds = pc.min_max(rows["decision_time"]).as_py()
        last = bounds["max"] + timedelta(microseconds=1)
        window = Window(start=naive_utc(bounds["min"]), end=naive_utc(last))
    spine = frames.read_spine(frames.without_labels(own), tables, clean_versions(own, tables), window)
    spine = spine.filter(pc.is_in(spine["id"], rows["id"].combine_chunks()))
    return with_view_features(own, tables, frames.add_request_features(own, spine), versions)


def _replace_columns(rows: pa.Table, features: pa.Table, names: Sequence[str], where: str) -> pa.Table:
    places = pc.index_in(rows["id"], features["id"].combine_chunks())
    if places.null_count:
        what = f"the SQL it was trained on does not return {counted_of(places.null_count, len(rows), 'decision')}"
        raise ModelError(what, where=where, hint=f"its features {list_names(names)} were redefined")
    features = features.take(places)
    for name in names:
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, features[name])
        else:
            rows = rows.append_column(name, features[name])
    return rows


def list_names(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:5]) + (f" and {counted(len(shown) - 5, 'other')}" if len(shown) > 5 else "")
