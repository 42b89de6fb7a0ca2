"""Rebuild a model in a separate home, from an archived problem and the data that a reproduction copied there.

tasks/training/reproduce.py starts `python -m tasks.training.rebuild PLAN` as a separate process, so that the result
depends neither on the problem's folder nor on imported modules. The result is written beside the plan.
"""

import dataclasses
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.features.decision_frame import feature_versions
from tasks.training.build_snapshot import build_snapshot
from truecourse.data.deliveries import Delivery, accepted_deliveries
from truecourse.data.pending_batch import PendingBatch
from truecourse.data.reread import restore
from truecourse.data.sql import clean_versions, labelled_tables
from truecourse.errors import SourceError, TruecourseError
from truecourse.features.feature_tables import compute_view
from truecourse.hashing import sha256
from truecourse.ingestion.validate import check_and_write
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import library_versions, train, with_parameters
from truecourse.problem import Problem, RandomSplit, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.references import Reference, Snapshot, TableVersion
from truecourse.storage.delta_tables import Tables

Start = Literal["source", "clean", "features"]


class ValidatedDeliveries(Reference):
    """Deliveries of a table that one commit of its clean table accepted."""

    table: str
    deliveries: tuple[int, ...]


class Plan(Reference):
    """What to rebuild, and from which step.

    From `source`: `deliveries` by table, whose bytes are in the home's storage, and `validations`, the order in which
    they were validated; `quarantined`: of each edited table, the rows that were quarantined, by delivery. From `clean`
    or `features`: the tables in the home's storage. `until`: naive UTC."""

    problem: str
    start: Start
    split: TimeSplit | RandomSplit | None
    until: datetime | None
    parameters: dict[str, Any]
    deliveries: dict[str, tuple[Delivery, ...]] = Field(default_factory=dict)
    validations: tuple[ValidatedDeliveries, ...] = ()
    quarantined: dict[str, dict[int, tuple[int, ...]]] = Field(default_factory=dict)


class RebuildResult(Reference):
    """The result of a rebuild. `clean` and `features`: its table versions by table and view. `fault`: why it failed."""

    snapshot: Snapshot | None = None
    model_sha256: str = ""
    clean: dict[str, TableVersion] = Field(default_factory=dict)
    features: dict[str, TableVersion] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    fault: str = ""


def result_file(plan: Path) -> Path:
    return plan.with_name("rebuilt.json")


def rebuild(plan: Plan) -> RebuildResult:
    """Rebuild a model. Raises what reading, validating, computing and training raise."""
    problem, tables = load_problem(plan.problem), Tables()
    if plan.split is not None:
        problem = dataclasses.replace(problem, split=plan.split)
    if plan.start == "source":
        _validate(problem, tables, plan)
    if plan.start != "features":
        for view in problem.views:
            compute_view(problem, tables, view.name)
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    snapshot = build_snapshot(problem, tables, clean=clean, features=features, until=plan.until)
    trained = train(problem, load_frame(tables.store, snapshot), with_parameters(problem.model, plan.parameters))
    digest = sha256(trained.model.ubj())
    return RebuildResult(
        snapshot=snapshot, model_sha256=digest, clean=clean, features=features, versions=library_versions()
    )


def _validate(problem: Problem, tables: Tables, plan: Plan) -> None:
    """Read the deliveries again, and validate them in their original order."""
    owned = labelled_tables(problem)
    raw = {name: restore(*owned[name], tables, list(known)) for name, known in plan.deliveries.items()}
    for commit in plan.validations:
        known = plan.deliveries[commit.table]
        owner, table = owned[commit.table]
        accepted, _ = accepted_deliveries(tables, owner.name, table.name)
        selected = tuple(d for d in known if d.number in commit.deliveries)
        kept = {number: frozenset(rows) for number, rows in plan.quarantined.get(commit.table, {}).items()}
        pending = PendingBatch(
            raw[commit.table], selected, known, frozenset(accepted), revalidates_all=False, kept=kept
        )
        for result in check_and_write(owner, table, tables, pending):
            if result.refused:
                raise SourceError(result.sentence(), where=f"table {commit.table}")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    try:
        result = rebuild(Plan.model_validate_json(file.read_bytes()))
    except TruecourseError as error:
        result = RebuildResult(fault=str(error))
    result_file(file).write_text(result.model_dump_json())
