"""Forget the subject of a plain table, of composite keys, and of a problem with monthly decisions."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis

from feature_repo.compat import feast_online_store
from feature_repo.online_erasure import remove_online
from feature_repo.protos import entity_keys
from tasks.data.forget_subject import forget_subject
from tasks.features.decision_frame import feature_versions
from tasks.training.build_snapshot import build_snapshot, take_snapshot
from tests import simulated_orders
from tests.byte_search import places_with
from truecourse.data.sql import clean_versions
from truecourse.errors import SettingsError
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.modeling.snapshot import Proof, load_frame
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.object_store import open_store

PLAIN = """
from truecourse.problem import Entity, Files, Float, Integer, Label, Problem, Table, Text
PROBLEM = Problem(
    name="people",
    kind="{kind}",
    tables=[
        Table(
            "people",
            source=Files("data/people*.{ending}"),
            key={key},
            columns={{"house": Text(), "person": Integer(source="Person No"), "income": Float(), "town": Text()}},
        )
    ],
    label=Label(table="people", column="{label}"),
)
"""
OWN = ["48213.77", "Winkelhausen am See"]


def people() -> pd.DataFrame:
    random = np.random.default_rng(4)
    rows = pd.DataFrame({"house": [f"house-{n // 3}" for n in range(300)], "Person No": np.arange(300) % 3 + 700_001})
    rows["Person No"] += np.arange(300) // 3 * 10
    rows["income"], rows["town"] = random.normal(3000, 500, 300).round(0), random.choice(["Ulm", "Bonn", "Kiel"], 300)
    rows.loc[100, "income"] = 48213.77
    return rows


def write(rows: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_dict("records")))
    else:
        path.write_text(rows.to_csv(index=False, quoting=1), encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("kind", "label", "ending", "key"),
    [
        ("regression", "income", "csv", ["person"]),
        ("multiclass", "town", "parquet", ["person"]),
        ("regression", "income", "jsonl", ["house", "person"]),
    ],
)
def test_a_table_without_entities(
    kind: str, label: str, ending: str, key: list[str], tmp_path: Path, configure: Callable[..., None]
) -> None:
    """The key is no field of the request: frames name the row by its id alone."""
    folder = tmp_path / "problems" / "people"
    (folder / "data").mkdir(parents=True)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="people")
    (folder / "problem.py").write_text(PLAIN.format(kind=kind, label=label, ending=ending, key=key))
    rows = people()
    write(rows, folder / "data" / f"people-1.{ending}")
    problem = refresh("people")
    snapshot = take_snapshot.fn("people")
    subject = [str(rows[{"house": "house", "person": "Person No"}[name]][100]) for name in key]
    wanted = ["48213.77", *([subject[-1]] if len(key) == 1 else [])]
    assert places_with(tmp_path / "home", open_store(), wanted)
    open_store().put("tables/gone/raw/rows/part.parquet", b"")
    outcome = forget_subject("people", subject)
    assert outcome.remains == ()
    assert list(outcome.unread) == ["gone"]  # neither its folder nor a run with an archive exists
    assert not outcome.is_complete
    assert places_with(tmp_path / "home", open_store(), wanted) == []
    assert len(load_frame(open_store(), snapshot)) == 299
    for name in (raw_table("people", "people"), clean_table("people", "people")):
        assert len(read(name)) == 299
    assert "people" in {one.name for one in problem.tables}
    with pytest.raises(SettingsError, match="parts"):
        forget_subject("people", [*subject, "1"])


def read(name: str) -> list[dict[str, object]]:
    version = Tables().version(name)
    assert version is not None
    rows: list[dict[str, object]] = Tables().read(version).to_pylist()
    return rows


def refresh(name: str) -> Problem:
    problem, tables = load_problem(name), Tables()
    for table in problem.tables:
        ingest_sources(problem, table, tables)
        validate_new(problem, table, tables, datetime(2025, 1, 1))
    for view in problem.views:
        compute_view(problem, tables, view.name)
    return problem


def test_a_problem_with_monthly_decisions(tmp_path: Path, configure: Callable[..., None]) -> None:
    """Aggregations hold rows of events, in all versions of the tables and under a column that was renamed since."""
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn")
    (tmp_path / "problems").mkdir()
    ordered = simulated_orders.orders(600)
    ordered.loc[ordered["customer"] == "c007", "category"] = "Zeppelin-Lila-88"
    folder = simulated_orders.install(tmp_path / "problems", ordered)
    refresh("churn")
    simulated_orders.deliver(folder, simulated_orders.corrections(ordered, 60), 2)
    problem = refresh("churn")
    tables = Tables()
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    snapshot = build_snapshot(problem, tables, clean=clean, features=features, proof=Proof(applies=False))
    before = {view.name: len(read(name)) for view in problem.views for name in feature_tables(view.name)}
    outcome = forget_subject("customer", ["c007"])
    assert outcome.remains == ()
    assert places_with(tmp_path / "home", open_store(), ["Zeppelin-Lila-88"]) == []
    frame = load_frame(open_store(), snapshot)
    assert "c007" not in frame["customer"].to_pylist()
    assert len(frame) < snapshot.rows
    for view, rows in before.items():
        (name,) = feature_tables(view)
        left = read(name)
        assert len(left) < rows
        assert "c007" not in {row["customer"] for row in left}
        assert compute_view(problem, Tables(), view).name == name
        assert read(name) == left  # nothing to compute: the inputs have the same versions
        compute_view(problem, Tables(), view, full=True)
        key = sorted(map(str, left))
        assert sorted(map(str, read(name))) == key  # as if the customer had never been there


def feature_tables(view: str) -> list[str]:
    found = {key.partition("/_delta_log/")[0] for key in open_store().list(f"features/churn/{view}.")}
    return sorted(name for name in found if not name.endswith(".parquet"))


def test_keys_in_redis(valkey: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    """Keys of all definitions of the problem's views, and of no other problem. Other tests use the server too."""
    configure(home=tmp_path / "home", problems=tmp_path / "problems", online_store=valkey)
    (tmp_path / "problems").mkdir()
    simulated_orders.install(tmp_path / "problems", simulated_orders.orders(10))
    problem = load_problem("churn")
    with redis.Redis.from_url(valkey) as client:
        names = {
            (customer, project): feast_online_store.key_bytes(
                entity_keys(["customer"], ["string_val"], [(customer,)])[0], 3
            )
            + project.encode()
            for customer in ("only_here_7", "only_here_8")
            for project in ("churn_0123456789ab", "churn_ba9876543210", "shops_0123456789ab", "my_churn_0123456789ab")
        }
        for name in names.values():
            client.hset(name, "field", "value")
        matches = {"customer": "only_here_7"}.items()
        assert list(remove_online(problem, lambda key: matches <= key.items(), dry_run=True)) == [("redis", 2)]
        assert all(client.exists(name) for name in names.values())
        assert list(remove_online(problem, lambda key: matches <= key.items(), dry_run=False)) == [("redis", 2)]
        gone = {pair for pair, name in names.items() if not client.exists(name)}
        assert gone == {("only_here_7", "churn_0123456789ab"), ("only_here_7", "churn_ba9876543210")}
        client.delete(*names.values())
