"""The drift test on 100,000 rows against 336,776 with 30 columns, compared with Evidently's drift preset.

Then the whole drift check, from stored predictions to its report, on many copies of the problem's own predictions."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.harness import Measurement, Row, measure
from benchmarks.home import ensure_steps
from truecourse.problem.loader import load_problem
from truecourse.serving.batch_scoring import CHUNK_ROWS, predictions_table
from truecourse.settings import override_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

ROWS, WINDOW, COLUMNS, A_DAY = 336_776, 100_000, 30, 1000
LARGE = 10_000_000


def rows(quick: bool) -> list[Row]:
    reference, window = (ROWS // 10, WINDOW // 10) if quick else (ROWS, WINDOW)
    sizes: dict[str, Any] = {"reference": reference, "window": window}
    ours, theirs = (
        measure("benchmarks.monitoring.drift:ours", **sizes),
        measure("benchmarks.monitoring.drift:evidently", **sizes),
    )
    large = measure("benchmarks.monitoring.drift:ours", reference=1_000_000 if quick else 3_400_000, window=window)
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
    """The check on `most` predictions, compared with a tenth of them."""
    few, many = _measure_check(most // 10), _measure_check(most)
    tenth = f"{few['count_days'].result['rows']:,}"
    of = f"{many['count_days'].result['rows']:,} predictions of {many['count_days'].result['days']} days"
    return [
        Row(what=f"peak memory of counting {of}", value=many["count_days"].peak_bytes / 1e9, unit="GB",
            reference=few["count_days"].peak_bytes / 1e9, reference_is=tenth, limit=2),
        Row(what=f"counting {of}", value=many["count_days"].cpu, unit="CPU s", reference=few["count_days"].cpu,
            reference_is=tenth),
        Row(what="peak memory of a check of these", value=many["check"].peak_bytes / 1e9, unit="GB",
            reference=few["check"].peak_bytes / 1e9, reference_is=tenth, limit=2),
        Row(what="a check of these", value=many["check"].cpu, unit="CPU s", reference=few["check"].cpu,
            reference_is=tenth, limit=1.5),
    ]  # fmt: skip


def _measure_check(count: int) -> dict[str, Measurement]:
    problem = ensure_steps("score")
    with tempfile.TemporaryDirectory(prefix="truecourse-drift-") as folder:
        measure("benchmarks.monitoring.drift:fill", problem=problem.name, storage=folder, count=count)
        return {
            name: measure(f"benchmarks.monitoring.drift:{name}", problem=problem.name, storage=folder)
            for name in ("count_days", "check")
        }


def fill(problem: str, storage: str, count: int) -> Callable[[], None]:
    """Fill a storage with the champion and about `count` predictions, in commits like those of `score`.

    The predictions are copies, with new ids, of those of the newest days, which a check reads."""
    spec, store, tables = load_problem(problem), open_store(), Tables()
    reference = tables.version(predictions_table(problem))
    assert reference is not None
    predictions = pl.DataFrame(tables.read(reference)).with_columns(day=pl.col("decision_time").dt.date())
    chosen = predictions["day"].unique().sort().tail(spec.monitoring.window.days + 28)
    days = predictions.filter(pl.col("day").is_in(chosen.implode())).partition_by("day", include_key=False)
    times = max(1, round(count / sum(map(len, days))))

    def run() -> None:
        from truecourse.monitoring.drift.daily_attributions import Explainer
        from truecourse.monitoring.drift.reference_profile import load_profile
        from truecourse.registry import versions as registry

        for prefix in ("aliases/", "models/", "runs/", f"snapshots/{problem}/"):
            for key in store.list(prefix):
                place = Path(storage) / key
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(store.get(key))
        with override_settings(storage=storage):
            target, version = Tables(), registry.champion(problem)
            assert version is not None
            Explainer.of(spec, target, load_profile(spec, version))  # built once per champion: not measured
            for day in days:
                a_commit = max(1, CHUNK_ROWS // len(day))
                for first in range(0, times, a_commit):
                    copies = range(first, min(first + a_commit, times))
                    rows = pl.concat([day.with_columns(pl.col("id") + f"-{copy}") for copy in copies])
                    target.append(predictions_table(problem), rows.sort("decision_time").to_arrow(), {"flow": "score"})

    return run


def count_days(problem: str, storage: str) -> Callable[[], dict[str, int]]:
    """Update the daily histograms, as `score` and `ship` do at their end."""
    from truecourse.monitoring.drift.drift_check import update_daily_counts

    def run() -> dict[str, int]:
        with override_settings(storage=storage):
            days, tables = update_daily_counts(load_problem(problem), Tables()), Tables()
            reference = tables.version(predictions_table(problem))
            assert reference is not None
            return {"days": days, "rows": tables.dataset(reference).count_rows()}

    return run


def check(problem: str, storage: str) -> Callable[[], str]:
    from truecourse.monitoring.drift.drift_check import check_drift

    def run() -> str:
        with override_settings(storage=storage):
            return check_drift(load_problem(problem), Tables()).sentence

    return run


def frame(rows: int, first: int, seed: int) -> pa.Table:
    """Rows of 26 numbers and 4 categories, A_DAY rows per day; each day has its own means."""
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
