"""The definition of a prediction problem: one frozen, strict, typed object. Expectation suites, Feast definitions, the
request contract and monitoring bins are compiled from it. It contains no bucket, URL or secret."""

from collections.abc import Callable, Container, Mapping
from dataclasses import KW_ONLY, field
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.aggregations import Aggregations
from truecourse.problem.card import Card
from truecourse.problem.decision import Decision, Interval
from truecourse.problem.monitoring import Monitoring
from truecourse.problem.namespace import AnyView, Entity, FeatureArea, Namespace, View
from truecourse.problem.objectives import Objectives
from truecourse.problem.promotion import DEFAULT_GATES, Gate, Promotion
from truecourse.problem.schema import (
    CONFIG,
    AnyColumn,
    Columns,
    Identifier,
    Many,
    Table,
    Tags,
    Time,
    shown_unit,
)
from truecourse.problem.time_features import TimeFeature, time_features
from truecourse.problem.time_parts import CalendarPart
from truecourse.problem.training import AnyModel, RandomSplit, TimeSplit, XGBoost
from truecourse.problem.weights import Weights

Kind = Literal["binary", "multiclass", "regression"]
REQUEST, REQUEST_FEATURES = "request", "request_features"
"""The names of the groups of features that belong to no view."""
SharedName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")]
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, config=CONFIG)
class RequestFeatures:
    """Features computed from the request only. Training, requests and batches use the same function."""

    function: Callable[[Any], Arrays]
    """Maps arrays of n values by column to arrays of n values. Numbers are float64 with NaN for missing, text is object
    arrays with None, times are datetime64[us]. Example: `function=speed_features`."""
    _: KW_ONLY
    inputs: Many[str]
    """Request fields that the function reads, and `decision_time`, if there is one. Example:
    `inputs=["distance", "promised"]`."""
    features: Columns
    """The features that it returns, by name. Example: `features={"km_per_minute": Float()}`."""
    description: str = ""
    """What the features hold, for people. Example: `description="the promised speed"`."""
    owner: str = ""
    """Who answers for the features: a person or a team; by default the problem's owner. Example: `owner="logistics"`.
    """
    tags: Tags = ()
    """Words by which they are found in the catalogue. Example: `tags=["speed"]`."""


@dataclass(frozen=True, config=CONFIG)
class Label:
    """The target to predict: either `column` of `table`, for a problem without a spine, or `sql`."""

    _: KW_ONLY
    sql: str | None = None
    """A SQL file that returns `id`, `label` and `known_at` (when the label became known, UTC). Example:
    `sql="label.sql"`."""
    table: str | None = None
    """The table that has the label in a column; by default the first. Example: `table="patients"`."""
    column: str | None = None
    """The column of `table` with the label. Example: `column="progression"`."""
    closes_after: timedelta = timedelta(0)
    """How long after its decisions a cohort's labels are complete. Example: `closes_after=hours(24)`."""
    lookback: timedelta | None = None
    """The largest distance in time between a decision and a source row of its label, on the tables' `time` columns. It
    makes reading the labels of a few days cheap; None reads all. Example: `lookback=days(2)`."""
    classes: Many[str] = ()
    """The order of the classes; the last of a binary problem is positive. Sorted by default. Example:
    `classes=["kept", "churned"]`."""
    description: str = ""
    """What the label means, for people. Example: `description="arrived 15 minutes late or more"`."""
    unit: str = ""
    """The unit of a regression's label, shown with predictions, contributions and errors. By default that of the
    label's column. Example: `unit="minutes"`."""


@dataclass(frozen=True, config=CONFIG)
class Serving:
    """Limits and service level objectives of the endpoint."""

    _: KW_ONLY
    max_rows: Annotated[int, Field(ge=1)] = 1000
    """Largest number of rows in a request. Example: `max_rows=100`."""
    unknown_category: Literal["reject", "missing"] = "missing"
    """What happens to a category that training did not have. `"reject"` responds 422 with the value. `"missing"` treats
    it as missing and flags it in the response. Example: `unknown_category="reject"`."""
    objectives: Objectives = Objectives()
    """Service level objectives. Example: `objectives=Objectives(availability=0.99)`."""


@dataclass(frozen=True, config=CONFIG)
class Problem(Namespace):
    """One prediction problem.

    Without a spine, each row of the label's table is a decision. The request is then the table's columns without label,
    time and key."""

    name: Identifier
    """The problem's name: that of its folder. Example: `name="deliveries"`."""
    _: KW_ONLY
    kind: Kind
    """The kind of the label. Example: `kind="binary"`."""
    tables: Many[Table]
    """The tables that it reads. Example:
    `tables=[Table("orders", source=Files("orders.csv"), columns={"late": Boolean()})]`."""
    label: Label
    """What is predicted. Example: `label=Label(table="orders", column="late")`."""
    request: Columns = field(default_factory=dict)
    """The fields that a caller sends, including entity keys. Example: `request={"distance": Float(ge=0)}`."""
    spine: str | None = None
    """A SQL file that returns the request fields of past decisions, with `id` and `decision_time`. Example:
    `spine="spine.sql"`."""
    relations: Mapping[str, str] = field(default_factory=dict)
    """Named SQL files that other SQL may select from, in dependency order. Example:
    `relations={"outcomes": "outcomes.sql"}`."""
    entities: Many[Entity] = ()
    """The entities that views have features of. Example: `entities=[Entity("courier")]`."""
    views: Many[View | Aggregations] = ()
    """The feature views: SQL, or aggregations of a table's rows. Example:
    `views=[View("load", sql="load.sql", entity="courier", features={"orders": Integer()})]`."""
    shared_views: Many[SharedName] = ()
    """Views of feature areas (docs/how-to/share-features.md), as `area.view`. When the problem is loaded, they follow
    its own in `views`. Example: `shared_views=["customers.orders"]`."""
    request_features: RequestFeatures | None = None
    """Features that are computed from the request alone. Example:
    `request_features=RequestFeatures(speed_features, inputs=["distance"], features={"km_per_minute": Float()})`."""
    decision_parts: Many[CalendarPart] = ()
    """Parts of the decision time that the model is given, as features `decision_time_hour` and so on. Example:
    `decision_parts=["day_of_week", "hour"]`."""
    split: TimeSplit | RandomSplit = RandomSplit()
    """How rows are split into training, validation and test sets. Example: `split=RandomSplit(test=0.25)`."""
    model: AnyModel = XGBoost()
    """The kind of model and its parameters. Example: `model=XGBoost(max_depth=4)`."""
    weights: Weights | None = None
    """How much rows count in fitting; None for equal weights. Example: `weights=Weights(classes="balanced")`."""
    calibration: Literal["logistic"] | None = None
    """Calibrate a classifier's scores by a logistic curve, if that lowers the log loss of validation rows that it was
    not fitted to. None for the scores as they are. Example: `calibration="logistic"`."""
    decision: Decision | None = None
    """What the predicted class is chosen for; None for the likeliest class. Example:
    `decision=Decision(recall=0.8)`."""
    interval: Interval | None = None
    """Intervals of a regression's predictions; None for none. Example: `interval=Interval(coverage=0.9)`."""
    gates: Many[Gate] = DEFAULT_GATES
    """Conditions that a version must meet before it is promoted. Example: `gates=[MetricGate("auc", min=0.74)]`."""
    promotion: Promotion = Promotion()
    """What follows passed gates. Example: `promotion=Promotion(approval=True)`."""
    monitoring: Monitoring = Monitoring()
    """Thresholds of findings, alerts and retraining. Example: `monitoring=Monitoring(slices=["depot"])`."""
    serving: Serving = Serving()
    """Limits and objectives of the endpoint. Example: `serving=Serving(max_rows=100)`."""
    clock: Literal["wall", "data"] = "wall"
    """The reference time: the wall clock, or, for data that ends in the past, its newest decision (see
    docs/explanation/time.md). Example: `clock="data"`."""
    description: str = ""
    """The question that the model answers, for people. Example: `description="Will the delivery be late?"`."""
    owner: str = ""
    """Who answers for the problem, and for its parts without an owner of their own: a person or a team. Example:
    `owner="logistics"`."""
    card: Card = Card()
    """Intended use, limits and groups, for the model card. Example: `card=Card(use="calls before late deliveries")`."""
    folder: Path = Path()
    """The folder of problem.py; set when it is loaded. Example: `folder=Path("problems/deliveries")`."""
    areas: Mapping[str, FeatureArea] = field(default_factory=dict)
    """The areas of the shared views by name, restricted to these views; set when the problem is loaded. Example:
    `areas={}`."""

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        return (*self.areas.values(), self)

    def namespace_of(self, view: str) -> Namespace:
        return self.areas[self._shared[view]].namespace_of(view) if view in self._shared else self

    @property
    def own_views(self) -> tuple[AnyView, ...]:
        return tuple(view for view in self.views if view.name not in self._shared)

    @cached_property
    def _shared(self) -> dict[str, str]:
        """The area of each shared view, by the view's name."""
        parts = [name.partition(".") for name in self.shared_views]
        return {view: area for area, _, view in parts if area in self.areas}

    @property
    def entity_keys(self) -> list[str]:
        """The join keys of all entities, each once."""
        own = [key for entity in self.entities for key in entity.join_keys]
        return list(dict.fromkeys([*own, *(key for view in self.views for key in self.join_keys(view))]))

    def owner_of(self, part: AnyView | RequestFeatures) -> str:
        """The owner of a view or of the request features; empty if none is declared."""
        return (part.owner or self.owner) if isinstance(part, RequestFeatures) else super().owner_of(part)

    @property
    def sql_files(self) -> list[str]:
        """The SQL files of spine, label, relations and own views, each once."""
        names = [self.spine, self.label.sql, *super().sql_files]
        return list(dict.fromkeys(name for name in names if name))

    @property
    def has_spine(self) -> bool:
        """Whether a spine lists the decisions. Without one, each row of the label's table is a decision, and has a time
        only if the table has one."""
        return self.spine is not None

    @property
    def label_table(self) -> Table:
        return self.table(self.label.table) if self.label.table else self.tables[0]

    @property
    def label_unit(self) -> str:
        """The unit of a regression's label; empty if none is declared."""
        if self.kind != "regression" or self.label.unit or self.has_spine:
            return self.label.unit
        return shown_unit(self.label_table.columns.get(self.label.column or ""))

    def unit(self, feature: str) -> str:
        """The unit of a feature; empty if none is declared."""
        return shown_unit(self.features.get(feature))

    @property
    def contribution_unit(self) -> str:
        """The unit of SHAP contributions and margins."""
        return (self.label_unit or "label units") if self.kind == "regression" else "log-odds"

    @property
    def has_time(self) -> bool:
        return self.has_spine or self.label_table.time is not None

    @property
    def request_fields(self) -> dict[str, AnyColumn]:
        """The fields that a caller sends: `request`, or the label table's columns without label, time and key."""
        if self.request or self.has_spine:
            return dict(self.request)
        table = self.label_table
        excluded = {self.label.column, table.time, *table.key}
        return {name: column for name, column in table.columns.items() if name not in excluded}

    @property
    def features(self) -> dict[str, AnyColumn]:
        """All model inputs by name, in the model's column order: request fields, parts of times, request features, view
        features."""
        direct = {n: c for n, c in self.request_fields.items() if c.feature and not isinstance(c, Time)}
        computed = dict(self.computed_features.features) if self.computed_features else {}
        return direct | computed | {n: c for view in self.views for n, c in self.view_columns(view).items()}

    @cached_property
    def time_features(self) -> dict[str, TimeFeature]:
        """The features that are parts of request fields or of the decision time, by name."""
        return time_features(self.request_fields, self.decision_parts, has_time=self.has_time)

    @cached_property
    def computed_features(self) -> RequestFeatures | None:
        """All features that are computed from the request: parts of times, and the declared request features."""
        return self.computed_features_of(self.time_features)

    def computed_features_of(self, features: Container[str]) -> RequestFeatures | None:
        """The declared request features, and those of the parts of times that are among `features`."""
        declared = self.request_features
        parts = {name: part for name, part in self.time_features.items() if name in features}
        if not parts:
            return declared
        inputs = [name for feature in parts.values() for name in feature.inputs]
        columns = {name: feature.column for name, feature in parts.items()}

        def compute(given: Arrays) -> Arrays:
            found = {name: feature.values(given) for name, feature in parts.items()}
            return found if declared is None else {**found, **declared.function(given)}

        compute.__name__ = "parts of times" if declared is None else declared.function.__name__
        if declared is not None:
            inputs, columns = [*inputs, *declared.inputs], columns | dict(declared.features)
        return RequestFeatures(compute, inputs=tuple(dict.fromkeys(inputs)), features=columns)

    @property
    def feature_groups(self) -> dict[str, str]:
        """The group of each feature by name: its view, REQUEST or REQUEST_FEATURES."""
        computed = self.computed_features.features if self.computed_features else {}
        groups = dict.fromkeys(self.features, REQUEST) | dict.fromkeys(computed, REQUEST_FEATURES)
        return groups | {name: view.name for view in self.views for name in self.view_columns(view)}

    @property
    def needed_fields(self) -> frozenset[str]:
        """The request fields that a caller must send: those of `request`, or the columns of the label's table that a
        prediction depends on (features, inputs of request features, entity keys)."""
        if self.request:
            return frozenset(self.request)
        used = {*self.features, *(self.computed_features.inputs if self.computed_features else ())}
        used |= {*self.entity_keys}
        return frozenset(used & {*self.request_fields})

    @property
    def metric(self) -> str:
        """The loss for early stopping and model comparison."""
        return {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}[self.kind]


def midnight(day: date) -> datetime:
    """The start of a UTC day, without zone, as all times in frames."""
    return datetime(day.year, day.month, day.day)
