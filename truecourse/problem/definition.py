"""What we predict: one frozen, strict, typed object. Everything derived (suites, Feast definitions, the request
contract, monitoring bins) is compiled from it. It names no bucket, URL or secret."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.monitoring import Monitoring
from truecourse.problem.objectives import Objectives
from truecourse.problem.promotion import (
    DEFAULT_GATES,
    Gate,
    Promotion,
)
from truecourse.problem.schema import (
    CONFIG,
    AnyColumn,
    Columns,
    Identifier,
    Many,
    Table,
    Time,
    shown_unit,
)

Kind = Literal["binary", "multiclass", "regression"]
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, config=CONFIG)
class Entity:
    """Something with a history. `keys` are request fields; one key of the entity's own name unless given."""

    name: Identifier
    _: KW_ONLY
    keys: Many[str] = ()

    @property
    def join_keys(self) -> tuple[str, ...]:
        return self.keys or (self.name,)


@dataclass(frozen=True, config=CONFIG)
class View:
    """Features of one entity, one SQL file (DuckDB dialect) over clean tables and `relations`.

    The SQL returns the entity's keys, `event_timestamp` (the moment the row became known) and the features.
    A view with `timeless=True` returns no event_timestamp: one row a key, true at any time.
    `ttl`: older values count as missing (inclusive); zero is unlimited.
    `when_unavailable`: where the online store does not answer, the endpoint fails (503), or goes on without the values
    and says so in its answer.
    `lookback`: no source row can touch a feature row farther from it in time than this, measured on the tables'
    `time` columns in either direction. It makes recomputing incremental; None recomputes all.
    """

    name: Identifier
    _: KW_ONLY
    sql: str
    entity: str
    features: Columns
    ttl: timedelta = timedelta(0)
    lookback: timedelta | None = None
    timeless: bool = False
    when_unavailable: Literal["fail", "missing"] = "fail"
    description: str = ""


@dataclass(frozen=True, config=CONFIG)
class RequestFeatures:
    """Features computed from the request alone: arrays of n values by column in, arrays of n values out.

    `inputs` names request fields (and `decision_time`, if there is one). Numbers come as float64 with
    NaN for missing, text as object arrays with None, times as datetime64[us]. The same function serves training,
    one request and a batch.
    """

    function: Callable[[Arrays], Arrays]
    _: KW_ONLY
    inputs: Many[str]
    features: Columns


@dataclass(frozen=True, config=CONFIG)
class Label:
    """The truth to predict.

    Either `column` of the one `table` of a plain problem, or `sql`, which returns `id`, `label` and `known_at`
    (when the label became known, UTC). `closes_after`: a cohort's labels are complete this long after its decisions.
    `lookback`: no source row farther in time than this from a decision can touch its label, measured on the tables'
    `time` columns; it makes looking up the labels of a few days cheap, None reads all.
    `classes` orders the classes of a binary (the last is the positive one) or multiclass problem; sorted unless given.
    `unit` of a regression's label ("minutes") is shown with predictions, contributions and errors; that of the label's
    column unless given.
    """

    _: KW_ONLY
    sql: str | None = None
    table: str | None = None
    column: str | None = None
    closes_after: timedelta = timedelta(0)
    lookback: timedelta | None = None
    classes: Many[str] = ()
    description: str = ""
    unit: str = ""


@dataclass(frozen=True, config=CONFIG)
class TimeSplit:
    """By decision time, at UTC midnights: train_from <= train < train_until <= validate < validate_until <= test <
    test_until."""

    _: KW_ONLY
    train_until: Annotated[date, Field(strict=False)]
    validate_until: Annotated[date, Field(strict=False)]
    test_until: Annotated[date | None, Field(strict=False)] = None
    train_from: Annotated[date | None, Field(strict=False)] = None


@dataclass(frozen=True, config=CONFIG)
class RandomSplit:
    """By a hash of the row's id and the seed. Shares of all rows, and, while there are fewer than a thousand of it, of
    every class of the label (of a regression: of its label's quantiles). A row of a larger class falls on the same side
    for ever; of a small one, a few change sides as it grows. See truecourse/modeling/splitting.py."""

    _: KW_ONLY
    validate: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0


@dataclass(frozen=True, config=CONFIG)
class Range:
    """A search range, both ends included; whole numbers if both ends are."""

    low: int | float
    high: int | float
    _: KW_ONLY
    log: bool = False


@dataclass(frozen=True, config=CONFIG)
class Choice:
    values: Many[int | float | str]


@dataclass(frozen=True, config=CONFIG)
class XGBoost:
    """Parameters of `hist` boosting, under XGBoost's own names, and the space that `tune` searches."""

    _: KW_ONLY
    rounds: Annotated[int, Field(ge=1)] = 1000
    early_stopping_rounds: Annotated[int, Field(ge=1)] = 50
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_depth: Annotated[int, Field(ge=0)] = 6
    min_child_weight: float = 1.0
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 1.0
    reg_lambda: float = 1.0
    reg_alpha: float = 0.0
    gamma: float = 0.0
    max_bin: Annotated[int, Field(ge=2)] = 256
    max_cat_to_onehot: int = 4
    max_cat_threshold: int = 64
    seed: int = 0
    refit: bool = True
    """Once the number of rounds is chosen, train again on training and validation rows together."""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Choose the number of rounds by cross-validation over training and validation rows together, in this many parts,
    instead of on the validation rows alone: a few hundred rows are too few to choose by. 0: on the validation rows.
    Not for decisions with a TimeSplit, whose rounds are chosen on later rows than they are fitted to."""
    linear: bool | None = None
    """Begin with a linear model, and grow trees for what it leaves over (docs/training.md). None: where the rows that
    rounds are chosen on say so. Its part is constant beyond the values it was fitted to."""
    search: Mapping[str, Range | Choice] = field(default_factory=dict)
    trials: Annotated[int, Field(ge=1)] = 20


@dataclass(frozen=True, config=CONFIG)
class Serving:
    """Limits of the endpoint (rows a request, what happens to categories never seen in training), and what it is held
    to."""

    _: KW_ONLY
    max_rows: Annotated[int, Field(ge=1)] = 1000
    unknown_category: Literal["reject", "missing"] = "missing"
    """reject: a 422 that names the value; missing: scored as missing, and flagged in the answer."""
    objectives: Objectives = Objectives()


@dataclass(frozen=True, config=CONFIG)
class Problem:
    """One prediction problem. `request` are the fields a caller sends (entity keys among them); the spine returns them
    too, with `id` and `decision_time`. A plain problem has no spine: its one table is the spine, and its request is
    that table's columns but the label."""

    name: Identifier
    _: KW_ONLY
    kind: Kind
    tables: Many[Table]
    label: Label
    request: Columns = field(default_factory=dict)
    spine: str | None = None
    relations: Mapping[str, str] = field(default_factory=dict)
    """Named SQL files that other SQL may select from, in order of dependence."""
    entities: Many[Entity] = ()
    views: Many[View] = ()
    request_features: RequestFeatures | None = None
    split: TimeSplit | RandomSplit = RandomSplit()
    model: XGBoost = XGBoost()
    gates: Many[Gate] = DEFAULT_GATES
    promotion: Promotion = Promotion()
    monitoring: Monitoring = Monitoring()
    serving: Serving = Serving()
    clock: Literal["wall", "data"] = "wall"
    """What counts as now: the wall clock, or, for data that ends in the past, its newest decision (docs/time.md)."""
    description: str = ""
    folder: Path = Path()
    """The folder of problem.py; set when it is loaded."""

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def entity(self, name: str) -> Entity:
        return next(entity for entity in self.entities if entity.name == name)

    def view(self, name: str) -> View:
        return next(view for view in self.views if view.name == name)

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
        """Of a regression's label; empty where none is declared."""
        if self.kind != "regression" or self.label.unit or self.has_spine:
            return self.label.unit
        return shown_unit(self.label_table.columns.get(self.label.column or ""))

    def unit(self, feature: str) -> str:
        """What the values of a feature are counted in; empty where nothing says it."""
        return shown_unit(self.features.get(feature))

    @property
    def contribution_unit(self) -> str:
        """What SHAP contributions and margins are counted in."""
        return (self.label_unit or "label units") if self.kind == "regression" else "log-odds"

    @property
    def has_time(self) -> bool:
        return self.has_spine or self.label_table.time is not None

    @property
    def request_fields(self) -> dict[str, AnyColumn]:
        """What a caller sends, in order: `request`, or a plain table's columns but its label and its time."""
        if self.request or self.has_spine:
            return dict(self.request)
        table = self.label_table
        left_out = {self.label.column, table.time, *table.key}
        return {name: column for name, column in table.columns.items() if name not in left_out}

    @property
    def features(self) -> dict[str, AnyColumn]:
        """Every model input by name, in the model's column order: request fields, request features, views."""
        direct = {n: c for n, c in self.request_fields.items() if c.feature and not isinstance(c, Time)}
        computed = dict(self.request_features.features) if self.request_features else {}
        return direct | computed | {n: c for view in self.views for n, c in view.features.items()}

    @property
    def needed_fields(self) -> frozenset[str]:
        """The request fields that a caller must send: those of `request`, or the columns of a plain table that a
        prediction depends on (features, what the request features are made from, keys that views are looked up by)."""
        if self.request:
            return frozenset(self.request)
        used = {*self.features, *(self.request_features.inputs if self.request_features else ())}
        used |= {key for entity in self.entities for key in entity.join_keys}
        return frozenset(used & {*self.request_fields})

    @property
    def metric(self) -> str:
        """The loss that training stops on and models are compared by."""
        return {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}[self.kind]

    def text(self, file: str) -> str:
        """A SQL file of the problem's folder."""
        return (self.folder / file).read_text()


def midnight(day: date) -> datetime:
    """The start of a UTC day, naive, as every time in a frame is."""
    return datetime(day.year, day.month, day.day)
