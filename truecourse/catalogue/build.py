"""Build the catalogue of a problem from its declarations, feature tables, training frame and model versions."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow.compute as pc

from truecourse.catalogue.declared_features import LABEL, declared_groups
from truecourse.catalogue.distributions import Distribution, distributions
from truecourse.catalogue.model_use import Definitions, model_use
from truecourse.catalogue.records import Catalogue, Feature, Group
from truecourse.catalogue.shared_areas import describe_areas
from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.features.asof import EVENT
from truecourse.features.computation_cost import load_costs
from truecourse.features.definition_digests import feature_table
from truecourse.hashing import sha256_json
from truecourse.modeling.snapshot import load_frame
from truecourse.problem import Problem
from truecourse.references import TableVersion, UtcTime
from truecourse.registry import runs
from truecourse.serving.contract import Contract
from truecourse.serving.privacy import private_names
from truecourse.storage.delta_tables import Tables

MOST_ROWS = 2_000_000
"""A feature table with more rows is not described: its features wait for the next training frame."""
_TIME = "decision_time"


@dataclass(frozen=True)
class _Described:
    """Distributions by feature. `rows`, `newest`, `computed`: of the training frame; None without one."""

    key: str = ""
    columns: dict[str, Distribution] = field(default_factory=dict)
    name: str = ""
    rows: int | None = None
    newest: datetime | None = None
    computed: UtcTime | None = None


def build_catalogue(problem: Problem, tables: Tables, before: Catalogue | None = None) -> Catalogue:
    """Build the catalogue of a problem as it is now.

    `before`: an earlier one, whose distributions are used again if the training frame is the same. Raises FeatureError
    and SQL errors as feature definitions do, if the problem is invalid."""
    definitions = Definitions.of(problem)
    used, frame = model_use(problem, definitions), _describe_frame(problem, tables, definitions, before)
    groups = []
    for group in declared_groups(problem):
        filled = _with_table(problem, tables, group) if group.is_view else _with_frame(group, frame)
        described = {name: frame.columns[name] for one in group.features if (name := one.name) in frame.columns}
        others = _describe_table(problem, tables, filled, [f.name for f in group.features if f.name not in described])
        features = tuple(
            _filled(one, described.get(one.name), frame.name, others.get(one.name), filled.table).model_copy(
                update={"uses": tuple(used.uses.get(one.name, ()))}
            )
            for one in group.features
        )
        groups.append(filled.model_copy(update={"features": features}))
    return Catalogue(
        problem=problem.name,
        description=problem.description,
        owner=problem.owner,
        at=datetime.now(UTC),
        contribution_unit=problem.contribution_unit,
        frame_key=frame.key,
        versions=used.versions,
        listed=used.listed,
        unread=used.unread,
        groups=tuple(groups),
        areas=describe_areas(problem),
    )


def _filled(
    feature: Feature, of_frame: Distribution | None, frame: str, of_table: Distribution | None, table: str
) -> Feature:
    """The feature with its distribution: in the training frame, or else in the feature table."""
    found, rows = (of_frame, frame) if of_frame else (of_table, table)
    if found is None:
        return feature
    shown = found.without_values() if feature.private else found
    return feature.model_copy(update={"distribution": shown, "described": rows})


def _with_frame(group: Group, frame: _Described) -> Group:
    """A group without a feature table: its rows are those of the newest training frame."""
    rows = {"table": frame.name, "rows": frame.rows, "newest": frame.newest, "computed": frame.computed}
    return group.model_copy(update=rows)


def _with_table(problem: Problem, tables: Tables, group: Group) -> Group:
    """A view with the rows, freshness and cost of its feature table, if it was computed."""
    version = tables.version(feature_table(problem, group.name))
    if version is None:
        return group
    ((_, computed, _),) = tables.recent(version.name, 1)
    return group.model_copy(
        update={
            "table": str(version),
            "rows": int(tables.dataset(version).count_rows()),
            "newest": None if group.timeless else tables.newest(version.name, EVENT),
            "computed": computed,
            "cost": load_costs(tables, version),
        }
    )


def _describe_frame(problem: Problem, tables: Tables, definitions: Definitions, before: Catalogue | None) -> _Described:
    """Describe the features and the label in the newest training frame, except those that were redefined since."""
    try:
        run = runs.trained_run(problem.name)
        record = runs.load_record(problem.name, run.run_id)
        contract = Contract.from_json(runs.artifact(run.run_id, "model/contract.json"))
    except (ModelError, NotFound):
        return _Described()
    names = [name for name in (*problem.features, LABEL) if definitions.compare(contract, name) == "same"]
    name = f"training frame {run.snapshot.sha256[:12]}"
    private, categorical = {*private_names(problem)}, set() if problem.kind == "regression" else {LABEL}
    key = sha256_json([run.snapshot.sha256, names, sorted(private), sorted(categorical)])
    if before is not None and before.frame_key == key:
        label = before.groups[-1]
        return _Described(key, _known(before), name, label.rows, label.newest, record.at)
    try:
        frame = load_frame(tables.store, run.snapshot)
    except (NotFound, IntegrityError):
        return _Described()
    time = _TIME if _TIME in frame.column_names else None
    newest = pc.max(frame[_TIME]).as_py() if time else None
    found = distributions(frame, [n for n in names if n in frame.column_names], time, categorical)
    return _Described(key, found, name, len(frame), newest, record.at)


def _known(before: Catalogue) -> dict[str, Distribution]:
    """The distributions in the training frame of an earlier catalogue."""
    features = [one for group in before.groups for one in group.features if one.described.startswith("training frame")]
    return {one.name: one.distribution for one in features if one.distribution is not None}


def _describe_table(problem: Problem, tables: Tables, group: Group, names: Collection[str]) -> dict[str, Distribution]:
    """Describe features of a SQL view in its feature table. Aggregations have no values before a decision."""
    if not names or group.kind != "view feature" or not group.table or (group.rows or 0) > MOST_ROWS:
        return {}
    name, _, number = group.table.rpartition("@")
    time = None if group.timeless else EVENT
    rows = tables.read(TableVersion(name=name, version=int(number)), columns=[*([EVENT] if time else []), *names])
    return distributions(rows.sort_by(EVENT) if time else rows, names, time)
