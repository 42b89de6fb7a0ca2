"""Entities, views, feature areas, and what problems and areas have in common: a namespace of tables and views."""

import re
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from truecourse.problem.aggregations import Aggregations
from truecourse.problem.schema import CONFIG, AnyColumn, Columns, Identifier, Many, Table, Tags

AREAS = "feature_views"
"""The folder of feature areas, beside that of problems, and in the folder of an archived or packaged problem."""


@dataclass(frozen=True, config=CONFIG)
class Entity:
    """An object with a history of features."""

    name: Identifier
    """The entity's name, to which views refer. Example: `name="courier"`."""
    _: KW_ONLY
    keys: Many[str] = ()
    """Request fields that identify it; by default one field with the entity's name. Example: `keys=["origin", "dest"]`.
    """

    @property
    def join_keys(self) -> tuple[str, ...]:
        return tuple(self.keys) or (self.name,)


@dataclass(frozen=True, config=CONFIG)
class View:
    """Features of one entity, one SQL file (DuckDB dialect) over clean tables and `relations`.

    The SQL returns the entity's keys, `event_timestamp` (when the row became known) and the features.
    """

    name: Identifier
    """The view's name. Example: `name="courier_history"`."""
    _: KW_ONLY
    sql: str
    """The SQL file, relative to the problem's folder. Example: `sql="features/courier_history.sql"`."""
    entity: str
    """The name of its entity. Example: `entity="courier"`."""
    features: Columns
    """Its features by name, columns of the SQL's result. Example: `features={"late_7d": Float("share late")}`."""
    ttl: timedelta = timedelta(0)
    """Values older than this count as missing (inclusive); zero is unlimited. Example: `ttl=days(7)`."""
    lookback: timedelta | None = None
    """The largest distance in time between a feature row and a source row that it depends on. It counts in both
    directions, on the tables' `time` columns. It makes recomputation incremental; None recomputes all. Example:
    `lookback=days(9)`."""
    timeless: bool = False
    """Whether the SQL returns no `event_timestamp`, but one row per key, which is valid at any time. Example:
    `timeless=True`."""
    when_unavailable: Literal["fail", "missing"] = "fail"
    """What the endpoint does if the online store does not answer. `"fail"` responds 503. `"missing"` predicts with
    missing values and says so in the response. Example: `when_unavailable="missing"`."""
    description: str = ""
    """What the view holds, for people. Example: `description="a courier's last week"`."""
    owner: str = ""
    """Who answers for the view: a person or a team; by default the problem's owner. Example: `owner="logistics"`."""
    tags: Tags = ()
    """Words by which it is found in the catalogue. Feast has them as tags. Example: `tags=["history", "late"]`."""


AnyView = View | Aggregations


class Namespace:
    """Tables, relations, entities and views under one name and in one folder: a problem or a feature area.

    Tables and features are stored under the namespace's name."""

    if TYPE_CHECKING:  # the fields of the dataclasses that inherit it

        @property
        def name(self) -> str: ...
        @property
        def tables(self) -> Many[Table]: ...
        @property
        def relations(self) -> Mapping[str, str]: ...
        @property
        def entities(self) -> Many[Entity]: ...
        @property
        def views(self) -> Many[View | Aggregations]: ...
        @property
        def description(self) -> str: ...
        @property
        def owner(self) -> str: ...
        @property
        def folder(self) -> Path: ...

    @property
    def request_fields(self) -> dict[str, AnyColumn]:
        """The fields of a request, including the keys of entities, by name."""
        raise NotImplementedError

    @property
    def namespaces(self) -> "tuple[Namespace, ...]":
        """The namespaces whose tables its views read: the areas of a problem's shared views, and then itself."""
        return (self,)

    def namespace_of(self, view: str) -> "Namespace":
        """The namespace that a view belongs to: of a shared view its area, with this view alone."""
        return self

    @property
    def view_owners(self) -> "list[Namespace]":
        """The namespaces that its views belong to, each once."""
        owners = [self.namespace_of(view.name) for view in self.views]
        return list({id(owner): owner for owner in owners}.values())

    @property
    def own_views(self) -> tuple[AnyView, ...]:
        """The views that belong to this namespace."""
        return tuple(self.views)

    def join_keys(self, view: AnyView) -> tuple[str, ...]:
        """The request fields that identify the view's entity."""
        entities = self.namespace_of(view.name).entities
        return next(entity for entity in entities if entity.name == view.entity).join_keys

    def owner_of(self, part: AnyView) -> str:
        """The owner of a view; empty if none is declared."""
        return part.owner or self.namespace_of(part.name).owner

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def view(self, name: str) -> AnyView:
        return next(view for view in self.views if view.name == name)

    @property
    def sql_files(self) -> list[str]:
        """The SQL files of relations and own views, each once."""
        views = [view.sql for view in self.own_views if isinstance(view, View)]
        return list(dict.fromkeys([*self.relations.values(), *views]))

    def text(self, file: str) -> str:
        """The text of a SQL file in the folder."""
        return (self.folder / file).read_text()

    def view_columns(self, view: AnyView) -> dict[str, AnyColumn]:
        """The features of a view by name, with their types. Those of Aggregations follow from the table's columns."""
        if isinstance(view, View):
            return dict(view.features)
        owner = self.namespace_of(view.name)
        return self._aggregated[view.name] if owner is self else owner.view_columns(view)

    @cached_property
    def _aggregated(self) -> dict[str, dict[str, AnyColumn]]:
        """The feature columns of each own Aggregations whose table is declared; no columns for others."""
        tables = {table.name: table for table in self.tables}
        return {
            view.name: view.columns(tables[view.table].columns) if view.table in tables else {}
            for view in self.own_views
            if isinstance(view, Aggregations)
        }


@dataclass(frozen=True, config=CONFIG)
class FeatureArea(Namespace):
    """Tables, entities and views outside of problems, which any problem may use by name.

    It is `AREA` in `feature_views/<name>/area.py`, beside the folder of problems."""

    name: Identifier
    """The area's name: that of its folder, and of no problem. Example: `name="customers"`."""
    _: KW_ONLY
    tables: Many[Table]
    """The tables that its views read. Example:
    `tables=[Table("orders", source=Files("data/orders.csv"), columns={"customer": Text()})]`."""
    keys: Columns
    """The fields that identify entities, with their types. Problems have those of the views that they use in their
    requests. Example: `keys={"customer": Text("customer number")}`."""
    entities: Many[Entity]
    """The entities that views have features of. Example: `entities=[Entity("customer")]`."""
    views: Many[View | Aggregations]
    """The feature views: SQL, or aggregations of a table's rows. Example:
    `views=[View("load", sql="load.sql", entity="courier", features={"orders": Integer()})]`."""
    relations: Mapping[str, str] = field(default_factory=dict)
    """Named SQL files that other SQL may select from, in dependency order. Example: `relations={"paid": "paid.sql"}`.
    """
    owner: str = ""
    """Who answers for the area, and for its views without an owner of their own: a person or a team. Example:
    `owner="sales"`."""
    description: str = ""
    """What the features describe, for people. Example: `description="what customers ordered"`."""
    tags: Tags = ()
    """Words by which its views are found in the catalogue. Feast has them as tags. Example: `tags=["sales"]`."""
    folder: Path = Path()
    """The folder of area.py; set when it is loaded. Example: `folder=Path("feature_views/customers")`."""

    @property
    def request_fields(self) -> dict[str, AnyColumn]:
        return dict(self.keys)

    def namespace_of(self, view: str) -> "FeatureArea":
        if [one.name for one in self.views] == [view]:
            return self
        if view not in self._single:
            self._single[view] = self.restricted([view])
        return self._single[view]

    @cached_property
    def _single(self) -> dict[str, "FeatureArea"]:
        """The area restricted to single views, by view."""
        return {}

    def restricted(self, views: Collection[str]) -> "FeatureArea":
        """The area with these views, and with what they can depend on. Other parts may change without an effect on
        them."""
        chosen = [view for view in self.views if view.name in views]
        entities = [entity for entity in self.entities if entity.name in {view.entity for view in chosen}]
        keys = {key for entity in entities for key in entity.join_keys}
        texts = [view.table if isinstance(view, Aggregations) else self._text(view.sql) for view in chosen]
        relations: list[str] = []
        for name, file in reversed(list(self.relations.items())):  # a relation reads only those before it
            if _is_named(name, texts):
                relations.append(name)
                texts.append(self._text(file))
        return replace(
            self,
            tables=self._with_references([table for table in self.tables if _is_named(table.name, texts)]),
            keys={name: column for name, column in self.keys.items() if name in keys},
            entities=entities,
            views=chosen,
            relations={name: file for name, file in self.relations.items() if name in relations},
        )

    def _text(self, file: str) -> str:
        try:
            return self.text(file)
        except OSError:  # `check` reports it
            return ""

    def _with_references(self, tables: list[Table]) -> list[Table]:
        """These tables and those that their columns refer to, in the order of declaration."""
        names = {table.name for table in tables}
        while missing := {
            str(column.in_table)
            for table in self.tables
            for column in table.columns.values()
            if table.name in names and column.in_table and column.in_table not in names
        } & {table.name for table in self.tables}:
            names |= missing
        return [table for table in self.tables if table.name in names]


def _is_named(name: str, texts: Collection[str]) -> bool:
    """Whether any SQL text contains a name. It may do so without reading it."""
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(text) for text in texts)
