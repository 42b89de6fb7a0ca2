"""Measure the features of a trained model on its validation rows, and propose a smaller set."""

import json
from collections.abc import Callable
from typing import Any

from tasks.features.trained_features import archived_problem_of
from tasks.training.compare_models import Side, name_of
from truecourse.evaluation.feature_selection import Selection, select_features
from truecourse.features.computation_cost import load_costs
from truecourse.features.definition_digests import feature_table
from truecourse.modeling.boosting import parameters
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import with_parameters
from truecourse.problem import Problem
from truecourse.problem.training import AnyModel
from truecourse.registry import runs
from truecourse.storage.delta_tables import Tables


def select_of_model(side: Side, progress: Callable[[int], None]) -> dict[str, Any]:
    """Measure the features of a model on its snapshot, with its parameters.

    Returns the document of select_features() with {"kind", "problem", "model", "run_id", "snapshot"}. `progress` gets
    the number of finished fits."""
    snapshot, tables = runs.trained_run(side.problem, side.run_id).snapshot, Tables()
    account = json.loads(runs.artifact(side.run_id, "training.json"))
    with archived_problem_of(side) as problem:
        spec = _trained_spec(problem, account["parameters"])
        selection = Selection(problem, load_frame(tables.store, snapshot), spec, progress)
        found = select_features(selection, _costs(problem, tables))
    names = {"kind": "feature selection", "problem": side.problem, "model": name_of(side), "run_id": side.run_id}
    return names | {"snapshot": snapshot.sha256, **found}


def _trained_spec(problem: Problem, recorded: dict[str, Any]) -> AnyModel:
    """The problem's model with the parameters that the run was trained with, such as tuned ones."""
    known = parameters(problem.model)
    return with_parameters(problem.model, {name: value for name, value in recorded.items() if name in known})


def _costs(problem: Problem, tables: Tables) -> dict[str, dict[str, float]]:
    """What the last full computation of each view cost, if that is recorded; else the last one."""
    found = {}
    for view in problem.views:
        newest = tables.version(feature_table(problem, view.name))
        costs = load_costs(tables, newest) if newest else None
        if costs is not None:
            cost = costs.full or costs.last
            found[view.name] = {"cpu_seconds": cost.cpu_seconds, "bytes": float(cost.bytes)}
    return found
