"""Drift of 100,000 rows against 336,776 with 30 columns: ours, and Evidently's drift preset on the same data. And the
check itself, from predictions in storage to its report, where the problem's own predictions are repeated many times."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.harness import Measured, Row, measure
from benchmarks.home import ready
from truecourse.problem.loader import load_problem
from truecourse.serving.batch_scoring import CHUNK_ROWS, predictions_table
from truecourse.settings import override_settings
from truecourse.storage.object_store import open_store
from truecourse.storage.tables import Tables

ROWS, WINDOW, COLUMNS, A_DAY = 336_776, 100_000, 30, 1000
LARGE = 10_000_000


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
        *_checks(LARGE // 50 if quick else LARGE),
    ]  # fmt: skip


def _checks(most: int) -> list[Row]:
    """The check on so many predictions, beside a tenth of them."""
    few, many = _checked(most // 10), _checked(most)
    tenth = f"{few['arrive'].result['rows']:,}"
    of = f"{many['arrive'].result['rows']:,} predictions of {many['arrive'].result['days']} days"
    return [
        Row(what=f"peak memory of counting {of}", value=many["arrive"].peak_bytes / 1e9, unit="GB",
            reference=few["arrive"].peak_bytes / 1e9, reference_is=tenth, limit=2),
        Row(what=f"counting {of}", value=many["arrive"].cpu, unit="CPU s", reference=few["arrive"].cpu,
            reference_is=tenth),
        Row(what="peak memory of a check of these", value=many["check"].peak_bytes / 1e9, unit="GB",
            reference=few["check"].peak_bytes / 1e9, reference_is=tenth, limit=2),
        Row(what="a check of these", value=many["check"].cpu, unit="CPU s", reference=few["check"].cpu,
            reference_is=tenth, limit=1.5),
    ]  # fmt: skip


def _checked(count: int) -> dict[str, Measured]:
    problem = ready("score")
    with tempfile.TemporaryDirectory(prefix="truecourse-drift-") as folder:
        measure("benchmarks.drift:fill", problem=problem.name, storage=folder, count=count)
        return {
            name: measure(f"benchmarks.drift:{name}", problem=problem.name, storage=folder)
            for name in ("arrive", "check")
        }


def fill(problem: str, storage: str, count: int) -> Callable[[], None]:
    """A storage with the champion and its newest predictions, of the days that a check reads, repeated with ids of
    their own until they are about `count`, in commits like those of `score`."""
    spec, store, tables = load_problem(problem), open_store(), Tables()
    reference = tables.version(predictions_table(problem))
    assert reference is not None
    made = pl.DataFrame(tables.read(reference)).with_columns(day=pl.col("decision_time").dt.date())
    chosen = made["day"].unique().sort().tail(spec.monitoring.window.days + 28)
    days = made.filter(pl.col("day").is_in(chosen.implode())).partition_by("day", include_key=False)
    times = max(1, round(count / sum(map(len, days))))

    def run() -> None:
        from truecourse.monitoring.drift.daily_attributions import Explainer
        from truecourse.monitoring.drift.profile_builder import load_profile
        from truecourse.registry import versions as registry

        for prefix in ("aliases/", "mlflow/", f"snapshots/{problem}/"):
            for key in store.list(prefix):
                place = Path(storage) / key
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(store.get(key))
        with override_settings(storage=storage):
            filled, version = Tables(), registry.champion(problem)
            assert version is not None
            Explainer.of(spec, filled, load_profile(spec, version))  # what is made once for a champion is not measured
            for day in days:
                a_commit = max(1, CHUNK_ROWS // len(day))
                for first in range(0, times, a_commit):
                    copies = range(first, min(first + a_commit, times))
                    rows = pl.concat([day.with_columns(pl.col("id") + f"-{copy}") for copy in copies])
                    filled.append(predictions_table(problem), rows.sort("decision_time").to_arrow(), {"flow": "score"})

    return run


def arrive(problem: str, storage: str) -> Callable[[], dict[str, int]]:
    """What `score` and `ship` end with."""
    from truecourse.monitoring.drift.check import update_daily_counts

    def run() -> dict[str, int]:
        with override_settings(storage=storage):
            days, tables = update_daily_counts(load_problem(problem), Tables()), Tables()
            reference = tables.version(predictions_table(problem))
            assert reference is not None
            return {"days": days, "rows": tables.dataset(reference).count_rows()}

    return run


def check(problem: str, storage: str) -> Callable[[], str]:
    from truecourse.monitoring.drift.check import check_drift

    def run() -> str:
        with override_settings(storage=storage):
            return check_drift(load_problem(problem), Tables()).sentence

    return run


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
    from truecourse.monitoring.drift import permutation_test

    before, after = frame(reference, 0, 0), frame(window, reference // A_DAY + 1, 1)
    names = [name for name in before.column_names if name != "decision_time"]
    return lambda: len(permutation_test.compare(before, after, names, time="decision_time").drifted)


def evidently(reference: int, window: int) -> Callable[[], int]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    sides = [frame(window, reference // A_DAY + 1, 1), frame(reference, 0, 0)]
    after, before = (side.drop_columns("decision_time").to_pandas() for side in sides)

    def run() -> int:
        return len(Report([DataDriftPreset()]).run(after, before).dict()["metrics"])

    return run
