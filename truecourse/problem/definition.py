"""The definition of a prediction problem: one frozen, strict, typed object. Expectation suites, Feast definitions, the
request contract and monitoring bins are compiled from it. It contains no bucket, URL or secret."""

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
    Day,
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
    """An object with a history of features. `keys`: request fields; by default one key with the entity's name."""

    name: Identifier
    _: KW_ONLY
    keys: Many[str] = ()

    @property
    def join_keys(self) -> tuple[str, ...]:
        return tuple(self.keys) or (self.name,)


@dataclass(frozen=True, config=CONFIG)
class View:
    """Features of one entity, one SQL file (DuckDB dialect) over clean tables and `relations`.

    The SQL returns the entity's keys, `event_timestamp` (when the row became known) and the features.
    `timeless`: the SQL returns no event_timestamp; it returns one row per key, which is valid at any time.
    `ttl`: older values count as missing (inclusive); zero is unlimited.
    `when_unavailable`: if the online store does not answer, the endpoint fails (503), or predicts with missing values
    and reports this in its answer.
    `lookback`: the largest distance in time between a feature row and a source row that it depends on, in either
    direction, on the tables' `time` columns. It makes recomputation incremental; None recomputes all.
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
    """Features computed from the request only. `function` maps arrays of n values by column to arrays of n values.

    `inputs`: request fields (and `decision_time`, if there is one). Numbers are float64 with NaN for missing, text is
    object arrays with None, times are datetime64[us]. Training, requests and batches use the same function.
    """

    function: Callable[[Any], Arrays]
    _: KW_ONLY
    inputs: Many[str]
    features: Columns


@dataclass(frozen=True, config=CONFIG)
class Label:
    """The target to predict.

    Either `column` of `table`, for a problem without a spine, or `sql`, which returns `id`, `label` and `known_at`
    (when the label became known, UTC). `closes_after`: how long after its decisions a cohort's labels are complete.
    `lookback`: the largest distance in time between a decision and a source row of its label, on the tables' `time`
    columns. It makes reading the labels of a few days cheap; None reads all.
    `classes`: the order of the classes of a binary (the last is positive) or multiclass problem; sorted by default.
    `unit`: of a regression's label ("minutes"), shown with predictions, contributions and errors; by default that of
    the label's column.
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
    """Split by decision time, at UTC midnights: train_from <= train < train_until <= validate < validate_until <= test
    < test_until."""

    _: KW_ONLY
    train_until: Day
    validate_until: Day
    test_until: Day | None = None
    train_from: Day | None = None


@dataclass(frozen=True, config=CONFIG)
class RandomSplit:
    """Split by a hash of the row's id and the seed. `validate` and `test` are shares of all rows.

    Classes with fewer than a thousand rows are stratified (for a regression: quantiles of the label). Rows of larger
    classes never change sides; a few rows of a small class may, as it grows. See truecourse/modeling/splitting.py."""

    _: KW_ONLY
    validate: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0


@dataclass(frozen=True, config=CONFIG)
class Range:
    """A search range, inclusive; integers if both ends are integers."""

    low: int | float
    high: int | float
    _: KW_ONLY
    log: bool = False


@dataclass(frozen=True, config=CONFIG)
class Choice:
    values: Many[int | float | str]


@dataclass(frozen=True, config=CONFIG)
class XGBoost:
    """Parameters of XGBoost's `hist` boosting, under XGBoost's names, and the search space of `tune`."""

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
    """Train again on training and validation rows together after the number of rounds is chosen."""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of folds to choose the number of rounds by cross-validation over training and validation rows, for small
    data. 0: use the validation rows only. Not with a TimeSplit, whose rounds are chosen on later rows."""
    linear: bool | None = None
    """Fit a linear model first, and trees to its residuals (docs/explanation/training.md). None: decide by the rows on
    which rounds are chosen. The linear part is constant outside the range that it was fitted to."""
    search: Mapping[str, Range | Choice] = field(default_factory=dict)
    trials: Annotated[int, Field(ge=1)] = 20


@dataclass(frozen=True, config=CONFIG)
class Serving:
    """Limits of the endpoint (rows per request, handling of unseen categories), and its service level objectives."""

    _: KW_ONLY
    max_rows: Annotated[int, Field(ge=1)] = 1000
    unknown_category: Literal["reject", "missing"] = "missing"
    """reject: respond 422 with the value. missing: treat the value as missing, and flag it in the answer."""
    objectives: Objectives = Objectives()


@dataclass(frozen=True, config=CONFIG)
class Problem:
    """One prediction problem. `request`: the fields that a caller sends, including entity keys. `spine`: a SQL file
    that returns them for past decisions, with `id` and `decision_time`.

    Without a spine, each row of the label's table is a decision, and the request is the table's columns without label,
    time and key."""

    name: Identifier
    _: KW_ONLY
    kind: Kind
    tables: Many[Table]
    label: Label
    request: Columns = field(default_factory=dict)
    spine: str | None = None
    relations: Mapping[str, str] = field(default_factory=dict)
    """Named SQL files that other SQL may select from, in dependency order."""
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
    """The reference time: the wall clock, or, for data that ends in the past, its newest decision (see
    docs/explanation/time.md)."""
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
        """All model inputs by name, in the model's column order: request fields, request features, view features."""
        direct = {n: c for n, c in self.request_fields.items() if c.feature and not isinstance(c, Time)}
        computed = dict(self.request_features.features) if self.request_features else {}
        return direct | computed | {n: c for view in self.views for n, c in view.features.items()}

    @property
    def needed_fields(self) -> frozenset[str]:
        """The request fields that a caller must send: those of `request`, or the columns of the label's table that a
        prediction depends on (features, inputs of request features, entity keys)."""
        if self.request:
            return frozenset(self.request)
        used = {*self.features, *(self.request_features.inputs if self.request_features else ())}
        used |= {key for entity in self.entities for key in entity.join_keys}
        return frozenset(used & {*self.request_fields})

    @property
    def metric(self) -> str:
        """The loss for early stopping and model comparison."""
        return {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}[self.kind]

    def text(self, file: str) -> str:
        """The text of a SQL file in the problem's folder."""
        return (self.folder / file).read_text()


def midnight(day: date) -> datetime:
    """The start of a UTC day, without zone, as all times in frames."""
    return datetime(day.year, day.month, day.day)
