"""A prediction is verified by recomputing it: the trace names every changed byte or value."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from services.log.spool import Spool
from services.model.predictor import registered_predictor
from tasks.scoring.score_decisions import score_decisions
from tasks.scoring.score_files import score_file
from tasks.training.build_snapshot import build_snapshot
from tasks.training.trace import trace_prediction
from tasks.training.train import train_model
from tests.frames import store_diabetes, store_wine
from tests.integration.conftest import Endpoint, Trained
from tests.integration.test_trace import flip_byte, only, stored
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.bento import load_package
from truecourse.errors import IntegrityError, ModelError
from truecourse.problem.loader import load_problem
from truecourse.references import Deployment, TableVersion, Window
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import predictions_table
from truecourse.serving.log_segments import SEALED
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry, log_table
from truecourse.storage.delta_tables import Tables

ROW = {"id": 7, "courier": "c03", "depot": "north", "promised": 42, "distance": 6.5}
AT = datetime(2024, 2, 29, 12, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """Ids of a logged prediction, of a decision scored in a batch, and of a row of a scored file."""

    logged: str
    decision: str
    of_file: str


@pytest.fixture
def world(endpoint: Endpoint, trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> World:
    """A copy of the trained home with a logged prediction, two batches and a deployment."""
    left_out = shutil.ignore_patterns("bentoml-*", "*.log", "spool", "predictions_log", "predictions")

    def ignored(folder: str, names: list[str]) -> set[str]:
        return set() if "src" in Path(folder).relative_to(trained.home).parts else left_out(folder, names)  # a Bento's

    shutil.copytree(trained.home, tmp_path / "moved", ignore=ignored)
    configure(home=tmp_path / "moved")
    problem, version = load_problem(), trained.version
    predictor = registered_predictor(version, registry.open_model(version, problem.kind))
    answered = predictor.answer(
        predictor.rows.read_request(json.dumps({"rows": [ROW]}).encode(), AT), explain=True, at=AT
    )
    spool = Spool(spool_folder(problem.name), encode_entry)
    spool.put(answered)
    spool.close()
    window = Window(start=datetime(2024, 2, 25), end=datetime(2024, 2, 25, 6))
    scored = score_decisions.fn(problem.name, version.version, window, explain=True)
    decision = Tables().read(scored, ["id"])["id"][0].as_py()
    file = tmp_path / "rows.csv"
    file.write_text("id,courier,depot,promised,distance,decision_time\nmine,c01,east,30,4.5,2024-02-20T10:00:00Z\n")
    score_file.fn(problem.name, str(file), version.version, explain=False)
    package = load_package(problem.name, version.version)
    assert package is not None
    deployment = Deployment(
        number=1, action="deploy", reason="tried", environment="traced", target="process", version=version,
        bento=package.bento, config_sha256="0" * 64, outcome="deployed", **aliases.signature(),
    )  # fmt: skip
    deployments.ledger("traced", problem.name).append(deployment)
    return World(answered.answers[0]["prediction_id"], decision, "mine")


def broken(id: str) -> list[str]:
    """Kinds of the links of a prediction that are not verified."""
    try:
        links = trace_prediction("deliveries", id)["links"]
    except IntegrityError as error:
        return ["prediction file"] if error.where.endswith(".parquet") else []
    return list(dict.fromkeys(link["link"] for link in links if not link["verified"]))


def kinds(id: str) -> list[str]:
    return list(dict.fromkeys(link["link"] for link in trace_prediction("deliveries", id)["links"]))


def test_each_byte_and_each_value_of_a_prediction_is_verified(world: World) -> None:
    views = ["features of view courier_history", "features of view depot_history", "features of view courier_facts"]
    known = ["prediction", "prediction file", "score", "answer", "explanation"]
    assert broken(world.logged) == broken(world.decision) == broken(world.of_file) == []
    assert kinds(world.logged)[:9] == [*known, "request features", *views]
    assert kinds(world.decision)[:10] == [*known, "decision", "request features", *views]
    assert kinds(world.of_file)[:8] == [*known[:4], "scored file", "request features", *views[:2]]
    _flip_bytes(world)
    _edit_values(world)
    assert broken(world.decision) == []
    _damage_a_segment()
    _rewrite_a_changed_file(world)
    _lose_digests(world)


def _flip_bytes(world: World) -> None:
    log, batch = log_table("deliveries"), predictions_table("deliveries")
    (bento,) = [path for path in stored("bentos/deliveries").iterdir() if path.suffix == ".bento"]
    package = load_package("deliveries", 1)
    assert package is not None
    (unpacked,) = (stored("").parent / "serving" / package.bento.sha256).rglob("model/vocabulary.json")
    file = trace_prediction("deliveries", world.decision)["prediction"]["file"]
    (scored,) = [one for one in trace_prediction("deliveries", world.of_file)["links"] if one["link"] == "scored file"]
    links = [
        (world.logged, only(log, "*/*.parquet"), b"", "prediction file"),
        (world.logged, only(f"{log}/_delta_log", "*0.json"), b"numRecords", "prediction file"),
        (world.logged, only(f"digests/{log}", "*/*.json"), b'"file_sha256": "', "prediction file"),
        (world.decision, stored(file), b"", "prediction file"),
        (world.decision, stored(f"digests/{file}.json"), b"", "prediction file"),
        (world.decision, only(f"{batch}/_delta_log", "*0.json"), b"numRecords", "prediction file"),
        (world.of_file, stored(scored["id"]), b"", "scored file"),
        (world.logged, stored("inference/deliveries/1.json"), b"", "inference configuration"),
        (world.logged, stored("bentos/deliveries/1.json"), b'"inputs": "', "package"),
        (world.logged, bento, b"", "Bento"),
        (world.logged, unpacked, b"", "unpacked Bento"),
        (world.logged, only("deployments/traced/deliveries", "*.json"), b'"reason": "', "deployment history"),
    ]
    for id, path, find, kind in links:
        with flip_byte(path, find):
            assert kind in broken(id), (kind, path)
    assert broken(world.logged) == []


def _edit_values(world: World) -> None:
    """Edit recorded values so that files and digests agree: only recomputing finds the edits."""
    edits: dict[str, tuple[Callable[[dict[str, Any]], None], set[str]]] = {
        "the score": (lambda row: row.update(score=0.99), {"score"}),
        "the answer": (lambda row: row.update(prediction="0" if row["prediction"] == "1" else "1"), {"answer"}),
        "the base": (lambda row: row.update(base=row["base"] + 0.01), {"explanation"}),
        "a looked-up feature": (_put("features", "courier_late_7d", 99), {"score", "features of view courier_history"}),
        "a feature of the request": (_put("features", "km_a_minute", 99), {"score", "request features"}),
        "the request": (_put("request", "distance", 99), {"request features"}),
        "the key": (_put("request", "courier", "c04"), {"features of view courier_facts"}),
        "the model": (lambda row: row.update(model_sha256="0" * 64), {"prediction"}),
    }
    tables, name = Tables(), log_table("deliveries")
    version = tables.version(name)
    assert version is not None
    kept = tables.read(version)
    for what, (edit, wanted) in edits.items():
        (row,) = kept.to_pylist()
        edit(row)
        tables.replace(name, pa.Table.from_pylist([row], kept.schema), {})
        unverified = set(broken(world.logged))
        assert wanted <= unverified, (what, unverified)
    tables.replace(name, kept, {})
    assert broken(world.logged) == []


def _put(column: str, name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def put(row: dict[str, Any]) -> None:
        row[column] = json.dumps(json.loads(row[column]) | {name: value})

    return put


STATIC: dict[str, Callable[[Path], dict[str, TableVersion]]] = {"wine": store_wine, "diabetes": store_diabetes}


@pytest.mark.parametrize("name", STATIC)
def test_predictions_of_problems_without_time_are_verified(
    name: str, tmp_path: Path, home: Path, configure: Callable[..., None]
) -> None:
    configure(problems=tmp_path, problem=name)
    clean, problem = STATIC[name](tmp_path), load_problem()
    snapshot = build_snapshot(problem, Tables(), clean=clean, features={})
    version = registry.create_version(train_model.fn(name, snapshot))
    predictor = registered_predictor(version, registry.open_model(version, problem.kind))
    rows = json.dumps({"rows": [predictor.contract.examples[0]]}).encode()
    answered = predictor.answer(predictor.rows.read_request(rows, AT), explain=True, at=AT)
    spool = Spool(spool_folder(name), encode_entry)
    spool.put(answered)
    spool.close()
    scored = score_decisions.fn(name, version.version, Window.all(), explain=True)
    id = Tables().read(scored, ["id"])["id"][0].as_py()
    for one in (answered.answers[0]["prediction_id"], id):
        traced = trace_prediction(name, one)
        assert [link for link in traced["links"] if not link["verified"]] == []
        assert {"score", "answer", "explanation"} <= {link["link"] for link in traced["links"]}
    reference = Tables().version(log_table(name))
    assert reference is not None
    kept = Tables().read(reference)
    (row,) = kept.to_pylist()
    row["score"] = None if row["score"] is None else row["score"] + 1
    row["scores"] = row["scores"] and json.dumps(dict.fromkeys(json.loads(row["scores"]), 1 / 3))
    Tables().replace(log_table(name), pa.Table.from_pylist([row], kept.schema), {})
    links = trace_prediction(name, answered.answers[0]["prediction_id"])["links"]
    assert "score" in [link["link"] for link in links if link["state"] == "changed"]


def _rewrite_a_changed_file(world: World) -> None:
    """Rewriting a file with a changed byte does not make it valid again."""
    tables, name = Tables(), log_table("deliveries")
    assert broken(world.logged) == []
    path = stored(trace_prediction("deliveries", world.logged)["prediction"]["file"])
    data = bytearray(path.read_bytes())
    place = data.rindex(b"created_by") if b"created_by" in data else len(data) - 40  # in the footer: rows stay readable
    data[place] ^= 1
    path.write_bytes(bytes(data))
    version = tables.version(name)
    assert version is not None
    tables.replace(name, tables.read(version), {})
    assert "prediction file" in broken(world.logged)


def _lose_digests(world: World) -> None:
    """A file without a digest is unknown, and never verified."""
    for path in stored(f"digests/{log_table('deliveries')}").rglob("*.json"):
        path.unlink()
    trace = trace_prediction("deliveries", world.logged)
    assert trace["state"] == "unknown"
    assert [link["link"] for link in trace["links"] if link["state"] == "unknown"] == ["prediction file"]


def _damage_a_segment() -> None:
    """The error about a prediction that cannot be found names the damaged segment."""
    folder = spool_folder("deliveries")
    ship("deliveries")
    problem, version = load_problem(), registry.version("deliveries", 1)
    predictor = registered_predictor(version, registry.open_model(version, problem.kind))
    answered = predictor.answer(predictor.rows.read_request(json.dumps({"rows": [ROW]}).encode(), AT), at=AT)
    spool = Spool(folder, encode_entry)
    spool.put(answered)
    spool.close()
    (segment,) = folder.glob(f"*.{SEALED}")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(bytes(data))
    ship("deliveries")
    with pytest.raises(ModelError, match=r"no such prediction.*\n.*damaged"):
        trace_prediction("deliveries", answered.answers[0]["prediction_id"])
