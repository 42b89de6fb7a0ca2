"""The lifecycle of tables with neither time nor keys: multiclass and regression."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from flows.lifecycle import lifecycle
from tests.static_tables import install_diabetes, install_wine
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import SCORE
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

INSTALL = {"wine": install_wine, "diabetes": install_diabetes}


@pytest.mark.parametrize("name", list(INSTALL))
def test_the_lifecycle_runs_on_a_table_without_time(
    name: str, tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    INSTALL[name](tmp_path)
    configure(problems=tmp_path, problem=name)
    summary = lifecycle()
    assert summary["champion"] == summary["register"] == registry.champion(name)
    assert open_store().exists(summary["package"].key)
    problem, tables = load_problem(name), Tables()
    (clean,) = summary["validate"].values()
    predictions = tables.read(summary["score"])
    assert len(predictions) == tables.dataset(clean).count_rows()
    expected = ["_tc_score_0", "_tc_score_1", "_tc_score_2"] if name == "wine" else ["_tc_score"]
    assert [n for n in predictions.column_names if n == SCORE or n.startswith(f"{SCORE}_")] == expected
    if name == "wine":
        truth = tables.read(clean, columns=["cultivar", "_tc_row"])
        joined = _with_truth(predictions, truth)
        right = sum(p == t for p, t in zip(joined["prediction"], joined["cultivar"], strict=True))
        assert right / len(predictions) > 0.9
    assert summary["monitor"]["reports"]["drift"].findings == ()
    assert problem.kind == {"wine": "multiclass", "diabetes": "regression"}[name]


def _with_truth(predictions: pa.Table, truth: pa.Table) -> dict[str, list[str]]:
    """Predicted and true classes of the same rows; a row without key is identified by its row number."""
    classes = dict(zip(map(str, truth["_tc_row"].to_pylist()), map(str, truth["cultivar"].to_pylist()), strict=True))
    return {
        "prediction": predictions["_tc_prediction"].to_pylist(),
        "cultivar": [classes[id] for id in predictions["id"].to_pylist()],
    }
