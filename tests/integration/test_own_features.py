"""A model is evaluated and served with the features it was trained on, even after the problem was edited."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from services.model.predictor import registered_predictor
from tasks.features.compute_features import compute_view
from tasks.features.load_online import load_for_models, load_view
from tasks.features.trained_features import archived_problem_of, rows_as_trained
from tasks.training.build_snapshot import take_snapshot
from tasks.training.evaluate_model import open_rival
from tasks.training.train import train_model
from tests.cleaned import write_clean
from tests.conftest import existing
from tests.simulated_deliveries import deliveries, install
from tests.unevaluated_versions import set_champion
from truecourse.errors import ModelError
from truecourse.evaluation.paired_comparison import compare, unchanged
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import rows_of
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Snapshot
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables

SINCE = '"since": Integer(nulls=True)'
NAME, UNTIL = "deliveries", datetime(2024, 3, 10, tzinfo=UTC)
EDITS = {
    "problem.py": [("minutes // 60 % 24)", "minutes // 60 % 24 + 6)"), ("gates=[BeatsBaseline(), ", "gates=[")],
    "features/courier_history.sql": [("INTERVAL 7 DAY", "INTERVAL 1 DAY")],
}


def take_new_snapshot() -> Snapshot:
    """Compute and load the features of the current problem, and take a snapshot."""
    for view in load_problem(NAME).views:
        compute_view.fn(NAME, view.name)
        load_view.fn(NAME, view.name, UNTIL)
    return take_snapshot.fn(NAME)


@pytest.fixture
def folder(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Path:
    """The deliveries problem with clean tables; `hour` is an important feature."""
    configure(problems=tmp_path, problem=NAME, mlflow_uri="")
    folder = install(tmp_path)
    rows = deliveries(days=60, a_day=40)
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "deliveries", rows)
    write_clean(problem, tables, "couriers", pd.read_json(folder / "data/couriers.jsonl", lines=True))
    return folder


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


def champion() -> tuple[ModelVersion, Snapshot]:
    snapshot = take_new_snapshot()
    version = registry.create_version(train_model.fn(NAME, snapshot))
    set_champion(version)
    return version, snapshot


def test_a_champion_uses_its_own_features_after_the_problem_was_edited(folder: Path) -> None:
    version, snapshot = champion()
    before = load_frame(Tables().store, snapshot)
    for file, pairs in EDITS.items():
        for old, new in pairs:
            edit(folder, file, old, new)
    problem, now = load_problem(NAME), take_new_snapshot()
    frame = load_frame(Tables().store, now)
    assert not frame["hour"].equals(before["hour"])
    assert not frame["courier_late_7d"].equals(before["courier_late_7d"])
    test = rows_of(frame, "test")
    own = rows_as_trained(problem, version, test)
    assert own.select(rows_of(before, "test").column_names).equals(rows_of(before, "test"))

    rival = open_rival(version, problem)
    challenger = registry.open_model(train_model.fn(NAME, now), problem.kind)
    fair = compare(problem, test, challenger, rival)
    unfair = compare(problem, test, challenger, dataclasses.replace(rival, lookup=unchanged))
    assert (fair.reason, unfair.reason) == ("", "")
    assert existing(existing(fair.loss)["high"]) > 0  # the same information, encoded differently
    assert existing(existing(unfair.loss)["high"]) < 0  # a comparison on the new features favours the challenger

    assert load_for_models.fn(NAME, UNTIL) == [version.version]
    with archived_problem_of(version) as archived:
        served, mine = (read(each) for each in (archived, problem))
        tables, names = Tables(), ["courier", "courier_late_7d", "courier_count_7d"]
        assert served["courier_count_7d"][0] > mine["courier_count_7d"][0]
        second = registry.create_version(train_model.fn(NAME, now))
        for each, online in ((version, served), (second, mine)):
            assert answered_features(each, test)["courier_count_7d"] == online["courier_count_7d"], "two at once"
        # New deliveries: the features of the old definition are updated too, and those of the new one are not.
        later = deliveries(days=3, a_day=40, seed=5, first=10_000)
        later["ordered_at"] = (pd.to_datetime(later["ordered_at"]) + pd.Timedelta(days=60)).dt.strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        write_clean(problem, tables, "deliveries", later)
        load_for_models.fn(NAME, UNTIL)
        assert read(archived)["courier_late_7d"] != served["courier_late_7d"]
        assert read(problem)[names[1]] == mine[names[1]]


def answered_features(version: ModelVersion, rows: pa.Table) -> dict[str, list[float]]:
    """The features with which the endpoint's predictor of a version answers a request of courier c05."""
    predictor = registered_predictor(version, registry.open_model(version, "binary"))
    names = [field.name for field in predictor.contract.fields]
    request = rows.select(names).slice(0, 1).to_pylist()[0] | {"courier": "c05"}
    at = datetime(2024, 3, 4, 12, tzinfo=UTC)
    body = json.dumps({"rows": [request]}, default=str).encode()
    (entry,) = predictor.answer(predictor.rows.read_request(body, at), at=at).entries()
    return dict(entry["features"]) | {name: held for _, some in entry["views"].values() for name, held in some.items()}


def read(problem: object) -> dict[str, list[float]]:
    from feature_repo.online import OnlineReader

    keys = {"courier": np.array(["c05"], dtype=object), "depot": np.array(["north"], dtype=object)}
    at = np.array([datetime(2024, 3, 4, 12)], dtype="datetime64[us]")
    return dict(OnlineReader(problem).read(keys, at, 1).values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("label.sql", "late AS label", "1 - late AS label", "its label was redefined"),
        ("problem.py", '"since": Integer(nulls=True)', '"since": Float(nulls=True)', ""),
        ("spine.sql", "FROM deliveries", "FROM deliveries WHERE took > 20", ""),
    ],
)
def test_a_comparison_on_redefined_features_is_refused(
    folder: Path, file: str, old: str, new: str, message: str
) -> None:
    version, snapshot = champion()
    rows = rows_of(load_frame(Tables().store, snapshot), "test")
    edit(folder, file, old, new)
    problem = load_problem(NAME)
    if not message:  # the archived spine still has each decision, and the table was not read again as declared now
        some: pa.Table = rows.slice(0, 50)
        assert rows_as_trained(problem, version, some).equals(some)
        return
    with pytest.raises(ModelError, match=message):
        rows_as_trained(problem, version, rows)
    comparison = compare(problem, rows, registry.open_model(version, problem.kind), open_rival(version, problem))
    assert "redefined" in comparison.reason
