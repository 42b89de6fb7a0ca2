"""A user's columns may have the names of our own columns: a credit score, a theatre row, a batch of beer."""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from cli.platform.endpoint import request_predictions
from flows.lifecycle import lifecycle
from tests.conftest import existing
from tests.scored_files import score_file
from truecourse.serving.batch_scoring import (
    BATCH,
    MODEL_VERSION,
    PREDICTION,
    ROW,
    SCORE,
    SCORED_AT,
    find_scored_rows,
    rejected_table,
)
from truecourse.storage.delta_tables import Tables

OURS = [
    "score", "prediction", "row", "batch", "index", "model_version", "model_sha256", "error", "missing", "base",
    "contributions", "rows", "scored_at", "event_timestamp", "created_timestamp", "moment", "place", "at", "day",
    "_old", "_source", "_row", "_id", "request", "features", "values", "reasons", "level_0", "__index__", "target",
    "it", "side",
]  # fmt: skip
"""Names of columns that our code or a library adds."""
UNUSUAL = ["a b", "a.b", "x[0]", "price<5", "größe", "名前", "q'uote", 'say "so"', "100%", "l" * 200]
"""Names that a library refuses or misinterprets."""
RENAMED = ["id", "decision_time", "label", "known_at", "split", "_tc_row"]
"""Names that a file may have and a table may not."""
NAMES = [*OURS, *UNUSUAL]
SENT = [*NAMES, *(f"my_{name}" for name in RENAMED)]
"""The fields of a request."""


def rows() -> list[dict[str, float]]:
    pick = random.Random(0)
    rows = []
    for _ in range(300):
        row = {name: round(pick.gauss(0, 1), 3) for name in [*NAMES, *RENAMED]}
        rows.append(row | {"bought": int(row["score"] + row["row"] + row["batch"] + pick.gauss(0, 0.5) > 0)})
    return rows


def write_csv(file: Path, rows: list[dict[str, float]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def problem(folder: Path) -> None:
    (folder / "named").mkdir()
    (folder / "named" / "problem.py").write_text(f"""
from truecourse.problem import (BeatsBaseline, Files, Float, Integer, Label, Problem, Table, XGBoost)

PROBLEM = Problem(
    "named",
    kind="binary",
    tables=[
        Table(
            "sales",
            source=Files("sales.csv"),
            columns={{name: Float() for name in {NAMES!r}}}
            | {{f"my_{{name}}": Float(source=name) for name in {RENAMED!r}}}
            | {{"bought": Integer(ge=0, le=1)}},
        )
    ],
    label=Label(table="sales", column="bought"),
    model=XGBoost(rounds=50, max_depth=3),
    gates=[BeatsBaseline()],
)
""")
    write_csv(folder / "named" / "sales.csv", rows())


def test_columns_may_have_the_names_of_our_own_columns(
    tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    problem(tmp_path)
    configure(problems=tmp_path, problem="named")
    summary = lifecycle()
    assert summary["champion"] == summary["register"]
    broken = [
        finding.sentence
        for report in summary["monitor"]["reports"].values()
        for finding in report.findings
        if finding.cause == "check broken"
    ]
    assert broken == []

    sent = rows()[:20]
    file = write_csv(tmp_path / "sent.csv", sent)
    file.write_text(file.read_text() + ",".join(["x"] * (len(SENT) + 1)) + "\n")
    before, tables = len(Tables().read(summary["score"])), Tables()
    predictions = tables.read(score_file("named", file).predictions)
    assert len(predictions) == before + len(sent)
    mine = predictions.filter(pa.compute.equal(predictions[BATCH], _newest_batch(predictions))).sort_by(ROW)
    for name in SENT:
        assert mine[name].to_pylist() == [row[name.removeprefix("my_")] for row in sent], name
    assert mine[ROW].to_pylist() == list(range(len(sent)))
    assert set(mine[MODEL_VERSION].to_pylist()) == {summary["champion"].version}
    requests = [{name: row[name.removeprefix("my_")] for name in SENT} for row in sent]
    online = request_predictions("named", "predict", requests)["predictions"]
    assert mine[SCORE].to_pylist() == [answer["score"] for answer in online]
    assert mine[PREDICTION].to_pylist() == [answer["prediction"] for answer in online]
    rejected = tables.read(existing(tables.version(rejected_table("named"))))
    assert rejected[ROW].to_pylist() == [len(sent)]

    scored_row = find_scored_rows(tables, "named", mine["id"][0].as_py())[0]
    assert (scored_row["score"], scored_row["values"]["score"]) == (online[0]["score"], sent[0]["score"])
    assert scored_row["values"]["batch"] == sent[0]["batch"] != scored_row["batch"]


def _newest_batch(predictions: pa.Table) -> str:
    return str(predictions.sort_by([(SCORED_AT, "descending")])[BATCH][0].as_py())
