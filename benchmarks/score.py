"""Batch scoring: rows a second of the encoding and the model, beside the booster alone and MLflow's pyfunc."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from benchmarks.harness import Row, measure
from benchmarks.home import ready
from truecourse.modeling.model import Model
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.serving.batch_scoring import Batch
from truecourse.storage.tables import Tables


def rows(quick: bool) -> list[Row]:
    problem = ready("register")
    arguments: dict[str, Any] = {"problem": problem.name, "count": 50_000 if quick else 300_000}
    ours, bare, pyfunc = (
        measure(f"benchmarks.score:{name}", **arguments) for name in ("ours", "inplace_predict", "pyfunc")
    )
    whole = measure("benchmarks.score:batch", problem=problem.name)
    count = ours.result
    return [
        Row(what=f"scoring {count:,} rows from columns to scores, written to a table", value=count / ours.seconds,
            unit="rows/s", reference=count / bare.seconds, reference_is="Booster.inplace_predict, in memory"),
        Row(what="its CPU time", value=ours.cpu, unit="CPU s", reference=bare.cpu,
            reference_is="Booster.inplace_predict, in memory", limit=3),
        Row(what="the same, with encoding and writing, which pyfunc does not do", value=count / ours.seconds,
            unit="rows/s", reference=count / pyfunc.seconds, reference_is="MLflow pyfunc, on codes in memory"),
        Row(what=f"scoring {whole.result:,} decisions with the join of their features",
            value=whole.result / whole.seconds, unit="rows/s"),
        Row(what="peak memory of it", value=whole.peak_bytes / 1e9, unit="GB", limit=4),
    ]  # fmt: skip


def _opened(name: str) -> tuple[Problem, ModelVersion, Model]:
    from truecourse.registry import versions as registry

    problem = load_problem(name)
    version = registry.champion(name)
    assert version is not None
    return problem, version, registry.open_model(version, problem.kind)


def _frame(problem: Problem, version: ModelVersion, count: int) -> pa.Table:
    """`count` rows of the champion's snapshot, from its start again where it is shorter."""
    from truecourse.modeling.snapshot import load_frame
    from truecourse.registry.runs import trained_run

    frame = load_frame(Tables().store, trained_run(problem.name, version.run_id).snapshot)
    copies = -(-count // len(frame))
    return pa.concat_tables([frame] * copies).slice(0, count).combine_chunks()


def _scored(problem: Problem, model: Model, frame: pa.Table, batch: Batch) -> pa.Table:
    from truecourse.arrays import columns_of
    from truecourse.modeling import prediction
    from truecourse.serving import batch_scoring

    scores = prediction.scores(model, columns_of(frame, model.vocabulary.features), batch.explain)
    return batch_scoring.prediction_rows(problem, model.vocabulary, frame, scores, batch, datetime.now(UTC))


def ours(problem: str, count: int) -> Callable[[], int]:
    """What the score flow does with a part: encode, predict, write."""
    spec, version, model = _opened(problem)
    frame, tables = _frame(spec, version, count), Tables()
    batch = Batch("benchmark", "benchmark", version, False)
    _scored(spec, model, frame.slice(0, 100), batch)

    def run() -> int:
        made = _scored(spec, model, frame, batch)
        tables.replace(f"benchmarks/{spec.name}/scored", made, {"flow": "benchmark"})
        return len(made)

    return run


def inplace_predict(problem: str, count: int) -> Callable[[], int]:
    from truecourse.arrays import columns_of

    spec, version, model = _opened(problem)
    matrix = model.vocabulary.encode(columns_of(_frame(spec, version, count), model.vocabulary.features))
    model.predict(matrix[:100])
    return lambda: len(model.booster.inplace_predict(matrix, validate_features=False))


def pyfunc(problem: str, count: int) -> Callable[[], int]:
    """The champion as MLflow loads it, on a DataFrame in memory of what its signature asks for."""
    import mlflow.pyfunc
    import pandas as pd

    from truecourse.arrays import columns_of
    from truecourse.registry.mlflow_runs import connect_mlflow
    from truecourse.settings import get_settings

    spec, version, model = _opened(problem)
    connect_mlflow()
    loaded = mlflow.pyfunc.load_model(f"{get_settings().storage_root}/mlflow/{version.run_id}/artifacts/model")
    names = list(model.vocabulary.features)
    matrix = model.vocabulary.encode(columns_of(_frame(spec, version, count), names))
    data = pd.DataFrame(matrix, columns=names)  # its signature: codes, as the booster reads them
    loaded.predict(data.head(100))
    return lambda: len(loaded.predict(data))


def batch(problem: str) -> Callable[[], int]:
    """The score step on every decision, as the flow runs it, but into a table of its own."""
    import dataclasses

    from tasks.features.decision_frame import decision_frame
    from truecourse.data.sql import clean_versions
    from truecourse.features import frame as frames
    from truecourse.references import Window
    from truecourse.serving.batch_scoring import time_spans

    spec, version, model = _opened(problem)
    spec = dataclasses.replace(spec, label=dataclasses.replace(spec.label, sql=None))
    tables = Tables()
    clean = clean_versions(spec, tables)

    def run() -> int:
        from benchmarks.pit_join import feature_versions

        features, total = feature_versions(spec, tables), 0
        if spec.has_time:
            times = frames.spine(spec, tables, clean)["decision_time"].cast(pa.timestamp("us"))
            ends = [times[0].as_py(), times[-1].as_py()]
            windows = [Window(start=s.start, end=s.end) for s in time_spans(ends[0], ends[1], len(times), Window())]
        else:
            windows = [Window()]
        for window in windows:
            part = decision_frame(spec, tables, clean, features, window)
            made = _scored(spec, model, part, Batch("benchmark", "benchmark", version, False))
            tables.append(f"benchmarks/{spec.name}/batch", made, {"flow": "benchmark"})
            total += len(made)
        return total

    return run
