"""The user-facing API: problem, tables, columns, views, label, split, gates, objectives and monitoring.

The packages `storage` and above depend on it. It depends only on `truecourse.errors` and similar modules.
"""

from truecourse.problem.aggregations import (
    Age,
    Aggregations,
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Share,
    StandardDeviation,
    Sum,
)
from truecourse.problem.card import Card
from truecourse.problem.decision import Decision, Interval
from truecourse.problem.definition import (
    Label,
    Problem,
    RequestFeatures,
    Serving,
)
from truecourse.problem.durations import days, hours, minutes, seconds
from truecourse.problem.monitoring import (
    Alerts,
    Monitoring,
    QualityWatch,
    Retraining,
)
from truecourse.problem.namespace import Entity, FeatureArea, View
from truecourse.problem.ngrams import Ngrams
from truecourse.problem.objectives import Objectives
from truecourse.problem.promotion import (
    BeatsBaseline,
    BeatsChampion,
    Canary,
    EveryClass,
    MetricGate,
    NotWorseThanLinear,
    Promotion,
    SliceFloor,
)
from truecourse.problem.schema import (
    Boolean,
    Csv,
    Files,
    Float,
    Integer,
    Objects,
    PackageData,
    Sql,
    Table,
    Text,
    Time,
)
from truecourse.problem.time_parts import Since
from truecourse.problem.training import Choice, Linear, RandomSplit, Range, TimeSplit, XGBoost
from truecourse.problem.weights import Weights

__all__ = [
    "Age", "Aggregations", "Alerts", "BeatsBaseline", "BeatsChampion", "Boolean", "Canary", "Card", "Choice", "Count",
    "CountDistinct", "Csv", "Decision", "Entity", "EveryClass", "FeatureArea", "Files", "First", "Float", "Integer",
    "Interval", "Label", "Last", "Linear", "Max", "Mean", "MetricGate", "Min", "Monitoring", "Ngrams",
    "NotWorseThanLinear", "Objectives", "Objects", "PackageData", "Problem", "Promotion", "QualityWatch", "RandomSplit",
    "Range", "RequestFeatures", "Retraining", "Serving", "Share", "Since", "SliceFloor", "Sql", "StandardDeviation",
    "Sum", "Table", "Text", "Time", "TimeSplit", "View", "Weights", "XGBoost", "days", "hours", "minutes", "seconds",
]  # fmt: skip
