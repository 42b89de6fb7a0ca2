"""A problem for notebooks: its tables, views, frames, snapshots, models, reports and comparisons."""

import dataclasses
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from tasks.features.decision_frame import decision_frame, feature_versions, with_view_features
from tasks.notebook.model import OpenModel
from tasks.notebook.rows import Answer, Rows
from tasks.open_problem import open_problem
from tasks.training.compare_models import Side, compare_models, find_side
from tasks.training.select_features import select_of_model
from truecourse.data import sql
from truecourse.data.table_views import bind_table
from truecourse.errors import NotFound, SettingsError
from truecourse.evaluation.comparison_sections import comparison_sections
from truecourse.evaluation.selection_sections import selection_sections
from truecourse.features.asof import EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.html import embedded
from truecourse.lineage.snapshot_diff import find_snapshot
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Check
from truecourse.page_sections import Pairs, fragment_view
from truecourse.problem import Problem
from truecourse.problem.namespace import AnyView
from truecourse.references import TableVersion, Window, naive_utc
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.wording import counted, nearest

if TYPE_CHECKING:
    import pandas as pd

_CURRENT = pc.field(sql.SUPERSEDED).is_null()
Moment = str | date | datetime
"""A time: UTC if it has no zone; a day is its midnight."""


def open_notebook(name: str | None = None) -> "OpenProblem":
    """Open a problem of the settings' folder; the default problem if none is named. Raises what loading raises."""
    return OpenProblem(open_problem(name))


class OpenProblem:
    """One problem. Listings are pandas frames; rows have `pandas()`, `polars()` and `arrow`."""

    def __init__(self, definition: Problem) -> None:
        self.definition = definition

    @property
    def name(self) -> str:
        return self.definition.name

    @cached_property
    def _store(self) -> Tables:
        return Tables()

    @property
    def tables(self) -> "pd.DataFrame":
        """The clean tables: their newest version and number of current rows; those of areas as `area.table`."""
        return _listing(
            {"table": label, "version": version.version if version else None, "rows": self._count(version, _CURRENT)}
            for label, version in ((label, self._newest(label)) for label in sql.labelled_tables(self.definition))
        )

    def _newest(self, label: str) -> TableVersion | None:
        owner, table = self._table(label)
        return self._store.version(clean_table(owner.name, table.name))

    def _count(self, version: TableVersion | None, condition: Any = None) -> int:
        return int(self._store.dataset(version).count_rows(filter=condition)) if version else 0

    def _table(self, label: str) -> Any:
        known = sql.labelled_tables(self.definition)
        if label not in known:
            raise NotFound(f"no table {label!r}", where=f"problem {self.name}", hint=nearest(label, known))
        return known[label]

    def table(self, name: str, as_of: Moment | None = None, version: int | None = None) -> Rows:
        """The current rows of a clean table.

        `as_of`: the rows as they were known at a moment, without later rows and corrections. `version`: of the table,
        by default the newest. Raises NotFound if there is no such table or version."""
        _, table = self._table(name)
        newest, moment = self._newest(name), read_moment(as_of)
        if newest is None:
            hint = f"truecourse run ingest --problem {self.name}, then validate"
            raise NotFound("the table has no clean version", where=f"{self.name}.{name}", hint=hint)
        if version is not None and not 0 <= version <= newest.version:
            raise NotFound(f"no version {version}", where=name, hint=f"there are 0 to {newest.version}")
        chosen = newest if version is None else TableVersion(name=newest.name, version=version)
        seen, cut = (sql.as_of(moment), sql.Cut(moment)) if moment else (sql.CURRENT, None)
        with sql.connect() as connection:
            bind_table(connection, self._store, table, chosen, rows=seen, cut=cut)
            query = f"SELECT * FROM {sql.quote(table.name)} ORDER BY ALL"  # noqa: S608
            rows = sql.fetch(connection, query, where=name)
        return Rows(f"{name}@{chosen.version}{_since(moment)}", rows)

    @property
    def views(self) -> "pd.DataFrame":
        """The feature views: entity, features, and rows of the newest computation."""
        return _listing(
            {"view": view.name, "entity": view.entity, "features": ", ".join(self.definition.view_columns(view)),
             "rows": self._count(self._store.version(feature_table(self.definition, view.name)))}
            for view in self.definition.views
        )  # fmt: skip

    def view(self, name: str, as_of: Moment | None = None) -> Rows:
        """The stored rows of a view; with `as_of`, the features of each key as known at that moment.

        Raises NotFound if there is no such view, or if it was never computed."""
        views = {view.name: view for view in self.definition.views}
        if name not in views:
            raise NotFound(f"no view {name!r}", where=f"problem {self.name}", hint=nearest(name, views))
        version = self._store.version(feature_table(self.definition, name))
        if version is None:
            hint = f"truecourse run materialize --problem {self.name}"
            raise NotFound("the view was never computed", where=f"{self.name}.{name}", hint=hint)
        moment, rows = read_moment(as_of), self._store.read(version)
        if moment is None:
            return Rows(f"view {name}", rows)
        return Rows(f"view {name}{_since(moment)}", self._features_at(views[name], version, rows, moment))

    def _features_at(self, view: AnyView, version: TableVersion, rows: pa.Table, moment: datetime) -> pa.Table:
        keys, utc = list(self.definition.join_keys(view)), pa.timestamp("us", tz="UTC")
        rows = rows.filter(pc.less_equal(rows[EVENT].cast(utc), pa.scalar(moment, utc)))  # keys that were known
        spine = rows.select(keys).group_by(keys, use_threads=False).aggregate([]).select(keys)
        spine = spine.sort_by([(key, "ascending") for key in keys])
        at = pa.repeat(pa.scalar(moment, utc), len(spine))
        spine = spine.append_column("decision_time", at)
        spine = spine.append_column("id", pa.array(map(str, range(len(spine))), pa.string()))
        areas = {
            name: dataclasses.replace(area, views=tuple(one for one in area.views if one.name == view.name))
            for name, area in self.definition.areas.items()
        }
        alone = dataclasses.replace(self.definition, views=(view,), areas=areas)
        found = with_view_features(alone, self._store, spine, {view.name: version})
        return found.select([*keys, *self.definition.view_columns(view)])

    def frame(self, start: Moment | None = None, end: Moment | None = None) -> Rows:
        """The decisions from `start` (inclusive) to `end` (exclusive), with the features as of each decision, and their
        labels if they are known. Reads the newest tables. Raises FeatureError if a view is older than its tables."""
        bounds = {"start": read_moment(start), "end": read_moment(end)}
        if any(bounds.values()) and not self.definition.has_time:
            raise SettingsError("decisions of this problem have no time", where=f"problem {self.name}")
        clean = sql.clean_versions(self.definition, self._store)
        features = feature_versions(self.definition, self._store, clean)
        window = Window(**bounds) if any(bounds.values()) else None
        return Rows(f"decisions of {self.name}", decision_frame(self.definition, self._store, clean, features, window))

    @property
    def snapshots(self) -> "pd.DataFrame":
        """The snapshots of training runs, the newest first."""
        records = [runs.load_record(self.name, run_id) for run_id in runs.run_ids(self.name)]
        newest = {record.run.snapshot.sha256: record for record in sorted(records, key=lambda record: record.at)}
        found = [{"snapshot": digest, "rows": r.run.snapshot.rows, "at": r.at} for digest, r in newest.items()]
        return _listing(reversed(found))

    def snapshot(self, digest: str | None = None) -> Rows:
        """The frame of a snapshot, by the first digits of its SHA-256; of the newest training run if not given."""
        if digest is None:
            return self.model(runs.trained_run(self.name).run_id).snapshot
        found = find_snapshot(self._store.store, self.name, digest)
        return Rows(f"snapshot {found.sha256[:12]}", load_frame(self._store.store, found))

    @property
    def runs(self) -> "pd.DataFrame":
        """The training runs, the newest first: id, version if registered, form, loss on validation rows."""
        known = {version.run_id: version.version for version in registry.versions(self.name)}
        records = sorted((runs.load_record(self.name, one) for one in runs.run_ids(self.name)), key=lambda r: r.at)
        found = []
        for record in reversed(records):
            training = self._model(record.run).training
            found.append({"run": record.run.run_id, "version": known.get(record.run.run_id), "at": record.at,
                          "form": training["form"].get("form"), "metric": training["metric"],
                          "loss": training["loss"]})  # fmt: skip
        return _listing(found)

    @property
    def versions(self) -> "pd.DataFrame":
        """The registered versions, the newest first: alias, passed gates, run."""
        aliases = {"champion": registry.champion(self.name), "challenger": registry.challenger(self.name)}
        found = []
        for version in reversed(registry.versions(self.name)):
            gates = registry.gates(version)
            alias = ", ".join(name for name, one in aliases.items() if one and one.version == version.version)
            passed = f"{sum(bool(gate['passed']) for gate in gates)} of {len(gates)}" if gates else ""
            found.append({"version": version.version, "alias": alias, "gates": passed, "run": version.run_id})
        return _listing(found)

    def model(self, name: str | int | None = None) -> OpenModel:
        """A model: a version's number, `champion`, `challenger`, or the first digits of a run's id.

        By default the champion, else the newest run. Raises ModelError if there is none."""
        if name is None:
            return self._model(registry.champion(self.name) or runs.trained_run(self.name))
        return self._model(find_side(self.name, str(name)))

    def _model(self, side: Side) -> OpenModel:
        return OpenModel(self.definition, side)

    @property
    def reports(self) -> "pd.DataFrame":
        """The newest report of each monitoring check: state, time and sentence."""
        found = [report_store.latest(self._store.store, self.name, check) for check in get_args(Check)]
        return _listing(
            {"check": one.check, "state": one.state, "at": one.at, "sentence": one.sentence} for one in found if one
        )

    def report(self, check: str) -> Answer:
        """The newest report of a monitoring check, such as `drift`. Raises NotFound if there is none."""
        checks = get_args(Check)
        if check not in checks:
            raise NotFound(f"no check {check!r}", where=f"problem {self.name}", hint=nearest(check, checks))
        found = report_store.latest(self._store.store, self.name, check)  # type: ignore[arg-type]
        if found is None:
            raise NotFound("no report yet", where=f"{self.name} {check}", hint="truecourse run monitor")
        facts = Pairs({"state": found.state, "at": f"{found.at:%Y-%m-%d %H:%M} UTC", "summary": found.sentence})

        def html() -> str:
            store = self._store.store
            if found.page and store.exists(found.page):
                return embedded(store.get(found.page).decode())
            return fragment_view(f"{check} of {self.name}", [facts])

        return Answer(f"{check} of {self.name}: {found.sentence}", found.model_dump(mode="json"), html)

    def compare(self, *models: str | int) -> Answer:
        """Compare models on test rows that none was trained on, as `truecourse compare`. The first is the reference."""
        if len(models) < 2:
            raise SettingsError(
                f"{len(models)} given, two or more needed", where="compare()", hint='compare("champion", 4)'
            )
        found = compare_models([find_side(self.name, str(one)) for one in models])
        sentences = "; ".join(one.get("sentence") or f"{one['model']}: {one['reason']}" for one in found["comparisons"])
        return Answer(sentences, found, lambda: fragment_view("Comparison of models", comparison_sections(found)))

    def select(self, model: str | int | None = None) -> Answer:
        """Measure what each feature and view adds to a model, as `truecourse select`. It trains once per feature."""
        side = find_side(self.name, str(model)) if model is not None else runs.trained_run(self.name)
        found = select_of_model(side, lambda fits: None)
        kept = counted(len(found["proposed"]["kept"]), "feature")
        title = f"feature selection of {found['model']}: keep {kept} of {len(found['features'])}"
        return Answer(title, found, lambda: fragment_view("Feature selection", selection_sections(found)))

    def __repr__(self) -> str:
        return f"problem {self.name}: {self.definition.description}"

    def _repr_html_(self) -> str:
        champion = registry.champion(self.name)
        facts = {
            "question": self.definition.description or "–",
            "kind": self.definition.kind,
            "tables": ", ".join(sql.labelled_tables(self.definition)),
            "views": ", ".join(view.name for view in self.definition.views) or "none",
            "features": len(self.definition.features),
            "champion": f"version {champion.version}" if champion else "none",
        }
        return fragment_view(f"problem {self.name}", [Pairs(facts)])


def read_moment(moment: Moment | None) -> datetime | None:
    """Read a moment as naive UTC. Raises SettingsError for a text that is no ISO 8601 time."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            hint = "for example 2024-03-01 or 2024-03-01T12:00"
            raise SettingsError("is no time", where=repr(moment), hint=hint) from None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        return datetime(moment.year, moment.month, moment.day)
    return naive_utc(moment.astimezone(UTC) if moment.tzinfo else moment) if moment else None


def _since(moment: datetime | None) -> str:
    return f" as of {moment:%Y-%m-%d %H:%M}" if moment else ""


def _listing(rows: Any) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows))
