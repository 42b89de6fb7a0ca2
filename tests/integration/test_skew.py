"""Batch and online scoring agree: every feature and every score is equal."""

from typing import Any

import numpy as np

from tests.integration.conftest import Endpoint, Trained
from tests.scored_files import score_file
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

AFTER = "2024-03-01T06:30:00Z"
"""After all data and within every ttl: the online store has the values of an as-of join."""


def test_online_answers_equal_batch_features_and_scores(endpoint: Endpoint, trained: Trained, tmp_path: Any) -> None:
    problem, rows = load_problem("deliveries"), []
    for i in range(60):
        row = {"id": f"skew-{i}", "courier": f"c{i % 14:02d}", "depot": ("north", "south", "east")[i % 3]}
        rows.append(row | {"promised": 30 + i, "distance": i / 7, "decision_time": AFTER})
    header = list(rows[0])
    lines = [",".join(header), *(",".join(str(row[name]) for name in header) for row in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    tables = Tables()
    written = tables.read(score_file("deliveries", tmp_path / "rows.csv", explain=True).predictions).to_pylist()
    batch = {row["id"]: row for row in written if row["id"].startswith("skew-")}
    assert len(batch) == len(rows)
    for answer in endpoint.answers("/explain", *rows):
        offline = batch[answer["id"]]
        values = {part["feature"]: part["value"] for part in answer["contributions"]}
        assert values == {name: offline[name] for name in problem.features}
        assert answer["score"] == offline["_tc_score"]
        assert answer["prediction"] == offline["_tc_prediction"]
        assert np.isfinite(answer["margin"])
