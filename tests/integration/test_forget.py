"""Forget a courier with a unique key and unique values: no byte of home or bucket holds them afterwards."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app, execute
from services.log.spool import Spool
from services.model.predictor import registered_predictor
from tasks.data.forget_subject import forget_subject
from tasks.data.validate import publish_page
from tasks.scoring.score_files import score_file
from tasks.training.compare_versions import compare_versions
from tasks.training.reproduce import reproduce
from tasks.training.trace import trace_model, trace_prediction
from tests import simulated_deliveries, traced_home
from tests.byte_search import places_with
from tests.conftest import S3Server
from tests.integration.conftest import set_environment
from truecourse.erasure.forget import Outcome, unfinished
from truecourse.erasure.remembered import ledger
from truecourse.ingestion.ingest import ingest_sources
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.serving.log_shipping import spool_folder
from truecourse.serving.prediction_log import encode_entry, log_table
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.object_store import LocalStore, open_store

KEY = "Ada-7741-Quist"
PLANTED = [KEY, "48213.77", "91234.5625", "123457", "Nordkap-Hafen", "Zeppelin-Lila-88"]
"""The key, and values that only the courier's rows have."""
OTHER = "c03"
AT = datetime(2024, 3, 1, 18, tzinfo=UTC)


def row(courier: str, distance: float = 6.5) -> dict[str, Any]:
    return {"courier": courier, "depot": "north", "promised": 45, "distance": distance}


def plant(problems: Path) -> None:
    rows = simulated_deliveries.deliveries(a_day=40)
    own = (rows.index % 41 == 7) | (rows.index >= len(rows) - 2)  # the last rows are examples in the contract
    rows.loc[own, "courier"] = KEY
    places = rows.index[own]
    rows.loc[places[3], "distance"], rows.loc[places[5], "took"] = 48213.77, 123457
    rows.loc[places[-4], "took"] = 123457  # the last in its depot: a feature of the depot
    rows.loc[places[8], "depot"] = "Nordkap-Hafen"  # quarantined
    folder = simulated_deliveries.install(problems, rows)
    facts = folder / "data" / "couriers.jsonl"
    known = facts.read_text()
    for vehicle in ("van", "Zeppelin-Lila-88"):  # the second is refused
        facts.write_text(known + "\n" + json.dumps({"courier": KEY, "vehicle": vehicle, "since": 2020}))
        traced_home.refresh("deliveries")
    bad = pd.concat([rows[own].head(3)] * 2).assign(distance=91234.5625)  # a key twice: refused
    bad.to_csv(folder / "data" / "deliveries-2.csv", index=False)
    traced_home.refresh("deliveries")


def build(folder: Path) -> None:
    plant(folder / "problems")
    version = traced_home.train("deliveries", card=True)
    publish_page("deliveries")
    assert execute(["explore", "deliveries"]) == 0
    file = folder / "rows.jsonl"
    wanted = [{**row(courier), "id": n, "decision_time": AT.isoformat()} for n, courier in enumerate((KEY, OTHER))]
    wanted.append({**row(KEY), "id": 3, "decision_time": AT.isoformat(), "promised": "soon"})  # rejected
    file.write_text("\n".join(map(json.dumps, wanted)))
    score_file.fn("deliveries", str(file), 1, explain=True)
    traced_home.serve("deliveries", 1, [row(KEY), row(OTHER)], AT.replace(tzinfo=None))
    predictor = registered_predictor(version, registry.open_model(version, "binary"))
    answered = predictor.answer(predictor.rows.read_request(json.dumps({"rows": [row(KEY)]}).encode(), AT), at=AT)
    spool = Spool(spool_folder("deliveries"), encode_entry)  # not shipped yet
    spool.put(answered)
    spool.close()
    logs = get_settings().home / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "endpoint.log").write_text(f"ERROR no features of courier {KEY}\nINFO ready\n")
    (logs / "old.log.gz").write_bytes(gzip.compress(f"ERROR {KEY}".encode()))
    (get_settings().home / "storage" / "reports" / ".drift.html.0a1b2c3d").write_text(f"cut off at {KEY}")
    open_store().put("backup/format-1/alarms/deliveries.json", json.dumps({"last": f"courier={KEY}"}).encode())


@pytest.fixture(scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forgotten")
    (folder / "problems").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, folder / "home", folder / "problems")
        build(folder)
    get_settings.cache_clear()
    return folder


@dataclass(frozen=True)
class Home:
    folder: Path
    home: Path

    def found(self, *texts: str) -> list[str]:
        return places_with(self.home, open_store(), texts or PLANTED)


@pytest.fixture
def planted(_built: Path, tmp_path: Path, configure: Callable[..., None]) -> Home:
    for name in ("home", "problems"):
        shutil.copytree(_built / name, tmp_path / name)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    return Home(tmp_path, tmp_path / "home")


def rows_of(name: str, version: int | None = None) -> list[dict[str, Any]]:
    tables = Tables()
    reference = tables.version(name) if version is None else TableVersion(name=name, version=version)
    assert reference is not None
    rows: list[dict[str, Any]] = tables.read(reference).to_pylist()
    return rows


def test_no_byte_remains(planted: Home) -> None:
    before = rows_of(clean_table("deliveries", "deliveries"))
    assert {text for place in planted.found() if (text := place.rpartition(": ")[2])} == {*PLANTED}
    planned = forget_subject("courier", [KEY], dry_run=True)
    assert len(planted.found()) > 20  # a dry run changes nothing
    outcome = forget_subject("courier", [KEY])
    assert planted.found() == []
    assert outcome.remains == ()
    assert {one.kind for one in planned.removed_data} == {one.kind for one in outcome.removed_data}
    others = [one for one in before if one["courier"] != KEY]
    assert rows_of(clean_table("deliveries", "deliveries")) == others  # and no other row changed
    assert {one["courier"] for one in rows_of(raw_table("deliveries", "deliveries"), 0)} == {
        one["courier"] for one in others
    }
    assert [one["version"] for one in outcome.versions] == [1]
    check_lineage()
    check_again(planted, outcome)


def check_lineage() -> None:
    """Everything still verifies: redacted, and nothing changed; the champion still answers."""
    traced = trace_model("deliveries", 1)
    states = {link["state"] for link in traced["links"]}
    assert traced["state"] == "redacted"
    assert states <= {"verified", "redacted", "unknown"}, [one for one in traced["links"] if one["state"] == "changed"]
    redacted = {one["link"] for one in traced["links"] if one["state"] == "redacted"}
    assert {"snapshot", "clean table", "raw table", "feature table", "source", "quarantine table"} <= redacted
    assert all("redacted on 20" in one["detail"] for one in traced["links"] if one["state"] == "redacted")
    (kept,) = [one for one in rows_of(log_table("deliveries")) if OTHER in one["request"]]
    assert trace_prediction("deliveries", kept["prediction_id"])["state"] == "redacted"
    rebuilt = reproduce("deliveries", 1)
    assert (rebuilt["state"], rebuilt["identical"], rebuilt["rebuilt_sha256"]) == ("redacted", False, None)
    assert all(compare_versions("deliveries", 1, 1)["redacted"])
    assert not ledger(open_store()).faults()
    assert not aliases.ledger("deliveries").faults()


def check_again(planted: Home, first: Outcome) -> None:
    """A later delivery brings the courier back: its rows are refused, and others are taken."""
    data = load_problem("deliveries").folder / "data"
    rows = simulated_deliveries.deliveries(days=2, a_day=10, first=900_000)
    rows.loc[:4, "courier"] = KEY
    rows.to_csv(data / "deliveries-3.csv", index=False)
    tables, problem = Tables(), load_problem("deliveries")
    before = len(rows_of(raw_table("deliveries", "deliveries")))
    ingest_sources(problem, problem.table("deliveries"), tables)
    assert len(rows_of(raw_table("deliveries", "deliveries"))) == before + 15
    (warning,) = tables.commits(raw_table("deliveries", "deliveries"))[-1][1]["deliveries"][-1]["warnings"]
    assert "5 rows of 1 forgotten subject refused" in warning
    assert planted.found(KEY) == []
    again = forget_subject("courier", [KEY])
    assert again.removed_data == ()
    assert [entry.key_hash for entry in ledger(open_store()).entries()] == [first.key_hash] * 2


def test_no_byte_remains_in_a_bucket(
    planted: Home, seaweed: S3Server, configure: Callable[..., None], tmp_path: Path
) -> None:
    local = open_store()
    configure(**seaweed.settings(f"forget-{tmp_path.name}"))
    for key in local.list(""):
        open_store().put(key, local.get(key))
    shutil.rmtree(planted.home / "storage")
    shutil.rmtree(planted.folder / "problems" / "deliveries")  # the problem is read from its run's archive
    outcome = forget_subject("courier", [KEY])
    assert planted.found() == []
    assert outcome.is_complete
    assert trace_model("deliveries", 1)["state"] == "redacted"


@pytest.mark.parametrize("after", [9, 40])
def test_a_killed_removal_is_finished_by_the_same_command(
    planted: Home, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """An error at any write leaves what a kill leaves: a part is removed, and none of it is reported as done."""
    done = 0

    def put(self: LocalStore, key: str, data: bytes) -> None:
        nonlocal done
        done += not key.startswith("locks/")
        if done > after and not key.startswith("locks/"):
            raise KeyboardInterrupt
        original(self, key, data)

    original = LocalStore.put
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", put)
        with pytest.raises(KeyboardInterrupt):
            forget_subject("courier", [KEY])
    assert not ledger(open_store()).entries()
    assert [one["entity"] for one in unfinished(open_store())] == ["courier"]
    outcome = forget_subject("courier", [KEY])
    assert planted.found() == []
    assert [one["version"] for one in outcome.versions] == [1]
    assert not unfinished(open_store())
    assert trace_model("deliveries", 1)["state"] == "redacted"
    assert rows_of(clean_table("deliveries", "deliveries"), 0)  # the log fits the files


def test_the_command_asks_and_lists(planted: Home) -> None:
    run = CliRunner()
    refused = run.invoke(app, ["forget", "courier", KEY])
    assert refused.exit_code == 1
    assert "--yes" in refused.output
    planned = json.loads(run.invoke(app, ["forget", "courier", KEY, "--dry-run", "--json"]).stdout)
    assert planned["removed"]["sources"]["rows"] > 30
    assert planned["versions"][0]["version"] == 1
    done = json.loads(run.invoke(app, ["forget", "courier", KEY, "--yes", "--json"]).stdout)
    assert done["complete"]
    assert KEY not in json.dumps(done)
    listed = json.loads(run.invoke(app, ["forget", "--list", "--json"]).stdout)
    assert [one["key_hash"] for one in listed["entries"]] == [done["key_hash"]]
    unknown = run.invoke(app, ["forget", "kurier", KEY, "--yes"])
    assert unknown.exit_code == 1
    assert run.invoke(app, ["forget", "courier", KEY, "--allow-return"]).exit_code == 0
    assert [one.action for one in ledger(open_store()).entries()] == ["forget", "allow return"]
