"""The results of Evidently's drift preset, as its report's `dict()` lays them out.

What: score, method and threshold of each column are read from the entries of the metrics' configuration.
Why: Evidently documents its page and the call, and no fields of the result.
Without it: the comparison would show Evidently's page and no results. So no setting leaves it out.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"evidently": ("0.7.23",)},
    changes="reads score, method and threshold of each column from a report's dict()",
    reason="Evidently documents no fields of a result",
    upstream="https://github.com/evidentlyai/evidently/blob/HEAD/src/evidently/metrics/column_statistics.py",
    without="the comparison has no results",
)


class ColumnDrift(NamedTuple):
    """Evidently's result for a column. `method`: its name ends with `p_value` if a low score means drift."""

    column: str
    score: float
    method: str
    threshold: float


def column_drifts(report: dict[str, Any]) -> Iterator[ColumnDrift]:
    """The result of each column in a report's dict()."""
    for metric in report["metrics"]:
        config = metric["config"]
        if config["type"].endswith(":ValueDrift"):
            column, method, threshold = config["column"], config["method"], config["threshold"]
            yield ColumnDrift(column, float(metric["value"]), method, float(threshold))
