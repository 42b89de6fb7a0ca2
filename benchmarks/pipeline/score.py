"""Batch scoring throughput of encoding and model, compared with the booster alone and with MLflow's pyfunc."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from benchmarks.harness import Row, measure
from benchmarks.home import ensure_steps
from truecourse.modeling.model import Model
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.serving.batch_scoring import Batch
from truecourse.storage.delta_tables import Tables


def rows(quick: bool) -> list[Row]:
    problem = ensure_steps("register")
    arguments: dict[str, Any] = {"problem": problem.name, "count": 50_000 if quick else 300_000}
    ours, bare, pyfunc = (
        measure(f"benchmarks.pipeline.score:{name}", **arguments) for name in ("ours", "inplace_predict", "pyfunc")
    )
    all_decisions = measure("benchmarks.pipeline.score:batch", problem=problem.name)
    count = ours.result
    return [
        Row(what=f"scoring {count:,} rows from columns to scores, written to a table", value=count / ours.seconds,
            unit="rows/s", reference=count / bare.seconds, reference_is="Booster.inplace_predict, in memory"),
        Row(what="its CPU time", value=ours.cpu, unit="CPU s", reference=bare.cpu,
            reference_is="Booster.inplace_predict, in memory", limit=3),
        Row(what="the same, with encoding and writing, which pyfunc does not do", value=count / ours.seconds,
            unit="rows/s", reference=count / pyfunc.seconds, reference_is="MLflow pyfunc, on codes in memory"),
        Row(what=f"scoring {all_decisions.result:,} decisions with the join of their features",
            value=all_decisions.result / all_decisions.seconds, unit="rows/s"),
        Row(what="peak memory of it", value=all_decisions.peak_bytes / 1e9, unit="GB", limit=4),
    ]  # fmt: skip


def _open_champion(name: str) -> tuple[Problem, ModelVersion, Model]:
    from truecourse.registry import versions as registry

    problem = load_problem(name)
    version = registry.champion(name)
    assert version is not None
    return problem, version, registry.open_model(version, problem.kind)


def _frame(problem: Problem, version: ModelVersion, count: int) -> pa.Table:
    """`count` rows of the champion's snapshot, repeated if it is shorter."""
    from truecourse.modeling.snapshot import load_frame
    from truecourse.registry.runs import trained_run

    frame = load_frame(Tables().store, trained_run(problem.name, version.run_id).snapshot)
    copies = -(-count // len(frame))
    return pa.concat_tables([frame] * copies).slice(0, count).combine_chunks()


def _score(problem: Problem, model: Model, frame: pa.Table, batch: Batch) -> pa.Table:
    from truecourse.arrays import columns_of
    from truecourse.modeling import prediction
    from truecourse.serving import batch_scoring

    scores = prediction.scores(model, columns_of(frame, model.vocabulary.features), batch.explain)
    return batch_scoring.prediction_rows(problem, model.vocabulary, frame, scores, batch, datetime.now(UTC))


def ours(problem: str, count: int) -> Callable[[], int]:
    """Score a part as the score flow does: encode, predict, write."""
    spec, version, model = _open_champion(problem)
    frame, tables = _frame(spec, version, count), Tables()
    batch = Batch("benchmark", "benchmark", version, False)
    _score(spec, model, frame.slice(0, 100), batch)

    def run() -> int:
        rows_written = _score(spec, model, frame, batch)
        tables.replace(f"benchmarks/{spec.name}/scored", rows_written, {"flow": "benchmark"})
        return len(rows_written)

    return run


def inplace_predict(problem: str, count: int) -> Callable[[], int]:
    from truecourse.arrays import columns_of

    spec, version, model = _open_champion(problem)
    matrix = model.vocabulary.encode(columns_of(_frame(spec, version, count), model.vocabulary.features))
    model.predict(matrix[:100])
    return lambda: len(model.booster.inplace_predict(matrix, validate_features=False))


def pyfunc(problem: str, count: int) -> Callable[[], int]:
    """The champion as loaded by MLflow, on a DataFrame in memory that matches its signature."""
    import mlflow.pyfunc
    import pandas as pd

    from truecourse.arrays import columns_of
    from truecourse.registry.mlflow_runs import connect_mlflow
    from truecourse.settings import get_settings

    spec, version, model = _open_champion(problem)
    connect_mlflow()
    loaded = mlflow.pyfunc.load_model(f"{get_settings().storage_root}/mlflow/{version.run_id}/artifacts/model")
    names = list(model.vocabulary.features)
    matrix = model.vocabulary.encode(columns_of(_frame(spec, version, count), names))
    data = pd.DataFrame(matrix, columns=names)  # its signature takes codes, as the booster does
    loaded.predict(data.head(100))
    return lambda: len(loaded.predict(data))


def batch(problem: str) -> Callable[[], int]:
    """Score every decision as the flow does, into a separate table."""
    import dataclasses

    from tasks.features.decision_frame import decision_frame
    from truecourse.data.sql import clean_versions
    from truecourse.features import frame as frames
    from truecourse.references import Window
    from truecourse.serving.batch_scoring import time_spans

    spec, version, model = _open_champion(problem)
    spec = dataclasses.replace(spec, label=dataclasses.replace(spec.label, sql=None))
    tables = Tables()
    clean = clean_versions(spec, tables)

    def run() -> int:
        from benchmarks.pipeline.pit_join import feature_versions

        features, total = feature_versions(spec, tables), 0
        if spec.has_time:
            times = frames.read_spine(spec, tables, clean)["decision_time"].cast(pa.timestamp("us"))
            ends = [times[0].as_py(), times[-1].as_py()]
            windows = [Window(start=s.start, end=s.end) for s in time_spans(ends[0], ends[1], len(times), Window())]
        else:
            windows = [Window()]
        for window in windows:
            part = decision_frame(spec, tables, clean, features, window)
            rows_written = _score(spec, model, part, Batch("benchmark", "benchmark", version, False))
            tables.append(f"benchmarks/{spec.name}/batch", rows_written, {"flow": "benchmark"})
            total += len(rows_written)
        return total

    return run
