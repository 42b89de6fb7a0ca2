"""Drift of 100,000 rows against 336,776 with 30 columns: ours, and Evidently's drift preset on the same data."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import Row, measure

ROWS, WINDOW, COLUMNS, A_DAY = 336_776, 100_000, 30, 1000


def rows(quick: bool) -> list[Row]:
    reference, window = (ROWS // 10, WINDOW // 10) if quick else (ROWS, WINDOW)
    sizes: dict[str, Any] = {"reference": reference, "window": window}
    ours, theirs = measure("benchmarks.drift:ours", **sizes), measure("benchmarks.drift:evidently", **sizes)
    large = measure("benchmarks.drift:ours", reference=1_000_000 if quick else 3_400_000, window=window)
    return [
        Row(
            what=f"drift of {window:,} rows against {reference:,}, {COLUMNS} columns",
            value=ours.cpu, unit="CPU s", reference=theirs.cpu, reference_is="Evidently", inverse=True,
            limit=10 if quick else 40, sense="at least",
        ),
        Row(what="peak memory of it", value=ours.peak_bytes / 1e9, unit="GB", reference=theirs.peak_bytes / 1e9,
            reference_is="Evidently", limit=1),
        Row(what="peak memory against ten times the reference", value=large.peak_bytes / 1e9, unit="GB", limit=4),
    ]  # fmt: skip


def frame(rows: int, first: int, seed: int) -> pa.Table:
    """Days of A_DAY rows, 26 numbers and 4 categories, each day with a mean of its own."""
    random = np.random.default_rng(seed)
    day = first + np.arange(rows) // A_DAY
    shift = random.normal(size=(rows // A_DAY + 1, COLUMNS)) / 2
    columns = {f"x{i}": random.normal(size=rows) + shift[day - first, i] for i in range(COLUMNS - 4)}
    kinds = np.array([f"k{i}" for i in range(40)])
    columns |= {f"c{i}": kinds[random.zipf(1.5, rows).clip(1, 40) - 1] for i in range(4)}
    times = pa.array(day.astype("datetime64[D]").astype("datetime64[us]"), pa.timestamp("us", tz="UTC"))
    return pa.table(columns).append_column("decision_time", times)


def ours(reference: int, window: int) -> Callable[[], int]:
    from truecourse.monitoring import drift

    before, after = frame(reference, 0, 0), frame(window, reference // A_DAY + 1, 1)
    names = [name for name in before.column_names if name != "decision_time"]
    return lambda: len(drift.compare(before, after, names, time="decision_time").drifted)


def evidently(reference: int, window: int) -> Callable[[], int]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    sides = [frame(window, reference // A_DAY + 1, 1), frame(reference, 0, 0)]
    after, before = (side.drop_columns("decision_time").to_pandas() for side in sides)

    def run() -> int:
        return len(Report([DataDriftPreset()]).run(after, before).dict()["metrics"])

    return run
