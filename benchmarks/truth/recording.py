"""What recording lineage costs: training with and without its record, and the log with and without its columns."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Row, measure
from benchmarks.home import copied_home, ensure_steps

REPEATS = 3
REQUESTS = 2000
LINEAGE = ("event_times", "view_event_times", "view_features")
"""The columns of the log that only lineage needs: when each looked-up value became known."""
ANSWER = ("request", "prediction_id", "id", "at", "decision_time", "score", "scores", "prediction", "contributions")


def rows(quick: bool) -> list[Row]:
    """Train on the newest snapshot in a copy of the home, and answer requests of past decisions."""
    problem = ensure_steps("score").name
    with copied_home() as home:
        cpu: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(1 if quick else REPEATS):
            for record in (False, True):
                trained = measure("benchmarks.truth.recording:train", home=home, problem=problem, record=record)
                cpu[record].append(trained.cpu)
        count = REQUESTS // 10 if quick else REQUESTS
        log = measure("benchmarks.truth.recording:log_bytes", home=home, problem=problem, count=count).result
    return list(_rows(min(cpu[True]), min(cpu[False]), log))


def _rows(recorded: float, bare: float, log: dict[str, dict[str, float]]) -> Iterator[Row]:
    yield Row(what="training, CPU", value=recorded, unit="s", reference=bare, reference_is="without lineage", limit=1.1)
    for what, sizes in log.items():
        yield Row(what=f"{what}, bytes a prediction", value=sizes["all"], unit="", reference=sizes["without"],
                  reference_is="without lineage", limit=1.3)  # fmt: skip
        yield Row(what=f"{what}, bytes a prediction, beside request and answer alone", value=sizes["all"], unit="",
                  reference=sizes["answer"], reference_is="request and answer")  # fmt: skip


def train(problem: str, record: bool) -> Callable[[], None]:
    """Train on the newest snapshot. `record`: whether tables, code and environment are recorded with the run."""
    from unittest.mock import patch

    from tasks.training import train as training
    from truecourse.registry import lineage_record, run_archive, runs

    snapshot = runs.trained_run(problem).snapshot

    def run() -> None:
        with patch.object(runs, "run_of_key", return_value=None):  # the snapshot was trained on before
            if record:
                training.train_model.fn(problem, snapshot)
                return
            with (
                patch.object(lineage_record, "record_lineage", return_value={}),
                patch.object(run_archive, "archive_files", return_value={}),
            ):
                training.train_model.fn(problem, snapshot)

    return run


def log_bytes(problem: str, count: int) -> Callable[[], dict[str, dict[str, float]]]:
    """Answer `count` requests of one row. Bytes a prediction in segments and in the table: all columns, without those
    of lineage, and those of request and answer alone."""
    import json
    from datetime import UTC

    from services.model import scoring_script
    from services.model.predictor import registered_predictor
    from truecourse.data.sql import clean_versions
    from truecourse.features import frame as frames
    from truecourse.problem.loader import load_problem
    from truecourse.registry import versions as registry
    from truecourse.serving.prediction_log import encode_entry, entries_table
    from truecourse.storage.delta_tables import Tables

    spec, tables, version = load_problem(problem), Tables(), registry.champion(problem)
    assert version is not None
    decided = frames.read_spine(frames.without_labels(spec), tables, clean_versions(spec, tables))
    decided = decided.slice(max(0, len(decided) - count))
    predictor = registered_predictor(version, scoring_script.init(version).model)
    at = decided["decision_time"][-1].as_py().astimezone(UTC)
    requests = decided.select(list(spec.request_fields)).to_pylist()

    def run() -> dict[str, dict[str, float]]:
        entries: list[dict[str, Any]] = []
        for request in requests:
            row = {name: value for name, value in request.items() if value is not None}
            body = json.dumps({"rows": [row]}, default=str).encode()
            entries += predictor.answer(predictor.rows.read_request(body, at), at=at).entries()
        table = entries_table(map(encode_entry, entries))
        bare = [without_lineage(entry) for entry in entries]
        answers = [{"requests": entry["requests"], "answers": entry["answers"], "at": entry["at"]} for entry in entries]
        segments = {"all": entries, "without": bare, "answer": answers}
        columns = {"all": table.column_names, "answer": [name for name in table.column_names if name in ANSWER]}
        columns["without"] = [name for name in table.column_names if name not in LINEAGE]
        return {
            "log segments": {n: sum(len(encode_entry(e)) for e in each) / count for n, each in segments.items()},
            "log table": {n: parquet_bytes(table.select(each)) / count for n, each in columns.items()},
        }

    return run


def without_lineage(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry whose features are not grouped by view, without event times."""
    looked_up = {name: values for _, kept in entry["views"].values() for name, values in kept.items()}
    return entry | {"features": entry["features"] | looked_up, "views": {}}


def parquet_bytes(table: Any) -> int:
    """The size of a table as a Parquet file, compressed as our Delta tables are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy")
    return int(sink.getvalue().size)
