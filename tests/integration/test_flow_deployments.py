"""Changes that people make in Prefect are kept when flows are deployed again, on a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.platform import flow_deployments
from cli.platform.flow_deployments import POOL, RESET, deploy, differences, reset
from services.process.prefect_client import PrefectClient
from tasks.release.prefect_deployments import Api
from truecourse.settings import REPOSITORY

FLOWS = ("ship", "retrain", "health")


class Server:
    """Changes deployments as a person in Prefect's UI does, and prefect.yaml as one in the repository does."""

    def __init__(self, url: str, file: Path) -> None:
        self.api, self.file = Api(url), file
        self._client = PrefectClient(url)
        document = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
        self.flows = {one["name"]: one for one in document["deployments"] if one["name"] in FLOWS}
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump({"deployments": list(self.flows.values())}))

    def request(self, method: str, path: str, body: Any = None) -> Any:
        return self._client.request(method, path, body)

    def deploy(self) -> list[str]:
        return deploy(self.api, self.file)

    def one(self, name: str) -> dict[str, Any]:
        return self.api.deployments()[f"{name}/{name}"]

    def settings_of(self, name: str) -> dict[str, Any]:
        return self.api.settings(self.one(name))

    def set(self, name: str, **changes: Any) -> None:
        self.request("PATCH", f"/deployments/{self.one(name)['id']}", changes)

    def schedule(self, name: str, **changes: Any) -> None:
        (schedule, *_) = self.one(name)["schedules"]
        self.request("PATCH", f"/deployments/{self.one(name)['id']}/schedules/{schedule['id']}", changes)


@pytest.fixture
def server(tmp_path: Path, home: Path, prefect_server: str) -> Iterator[Server]:
    home.mkdir()
    server = Server(prefect_server, tmp_path / "prefect.yaml")
    try:
        yield server
    finally:
        for one in server.api.deployments().values():
            server.api.delete(one["id"])
        server.request("DELETE", f"/work_pools/{POOL}")


def has(sentences: list[str], *words: str) -> bool:
    return any(all(word in sentence for word in words) for sentence in sentences)


def test_nothing_is_written_where_nothing_changed(server: Server) -> None:
    assert server.deploy() == []
    before = {name: server.one(name) for name in FLOWS}
    assert server.settings_of("ship")["schedule every-hour active"] is True
    assert server.settings_of("retrain")["automation retrain because of a finding enabled"] is True
    assert server.deploy() == differences(server.api) == []
    assert {name: server.one(name) for name in FLOWS} == before


def change_everything(server: Server) -> None:
    """Make every change that people can make in the UI."""
    server.set("health", paused=True, description="ours", concurrency_limit=3)
    server.set("ship", parameters={"problem": "wine"}, tags=["mine"])
    server.schedule("ship", active=False)
    second = [{"schedule": {"cron": "7 7 * * *", "timezone": "UTC"}, "active": True, "slug": "mornings"}]
    server.request("POST", f"/deployments/{server.one('ship')['id']}/schedules", second)
    (automation,) = server.one("retrain")["automations"]
    server.request("PATCH", f"/automations/{automation['id']}", {"enabled": False})
    server.request("PATCH", f"/work_pools/{POOL}", {"concurrency_limit": 5})


def test_changes_made_in_prefect_are_kept_and_reported_until_reset(server: Server) -> None:
    server.deploy()
    change_everything(server)
    before = {name: server.settings_of(name) for name in FLOWS}
    reported = server.deploy()
    assert {name: server.settings_of(name) for name in FLOWS} == before
    assert reported == differences(server.api)
    assert has(
        reported, "deployment health/health: paused in Prefect, active in the repository", "schedules reset health"
    )
    assert has(reported, "ship/ship: schedule every-hour is inactive in Prefect, active in the repository")
    assert has(reported, "schedule mornings (7 7 * * * UTC) was added in Prefect")
    assert has(reported, "ship/ship: parameters is", "wine")
    assert has(reported, "ship/ship: tags is", "mine")
    assert has(reported, "health/health: description is")
    assert has(reported, "health/health: concurrency limit is 3 in Prefect, 1 in the repository")
    assert has(reported, "automation retrain because of a finding is disabled in Prefect, enabled in the repository")
    assert has(reported, f"work pool {POOL}: concurrency limit is 5 in Prefect, none in the repository")
    assert len(reported) == 9
    assert list(reset(server.api, ["ship"], server.file)) == ["ship/ship"]
    assert "schedule mornings" not in server.settings_of("ship")
    assert server.settings_of("ship")["schedule every-hour active"] is True
    assert len(differences(server.api)) == 5
    assert len(list(reset(server.api, (), server.file))) == len(FLOWS)
    assert server.deploy() == []
    assert server.settings_of("health")["paused"] is False


def test_changes_of_the_repository_and_of_a_person_are_merged(server: Server) -> None:
    server.deploy()
    server.schedule("ship", active=False)
    server.set("health", description="ours")
    server.flows["ship"]["schedules"][0]["cron"] = "41 * * * *"
    server.flows["health"]["description"] = "The repository's new words."
    server.flows["health"]["tags"] = ["truecourse", "new"]
    server.write()
    reported = server.deploy()
    assert server.settings_of("ship")["schedule every-hour"]["cron"] == "41 * * * *"
    assert server.settings_of("ship")["schedule every-hour active"] is False
    assert (server.settings_of("health")["description"], server.settings_of("health")["tags"]) == (
        "ours",
        ["new", "truecourse"],
    )
    assert has(reported, "health: description also changed in the repository, to", "new words", "Prefect's value stays")
    assert not has(server.deploy(), "too"), "the change is reported once, the difference each time"
    assert has(server.deploy(), "health/health: description is", "ours", "new words")


def test_deleted_deployments_stay_deleted_and_those_gone_from_the_repository_are_removed(server: Server) -> None:
    server.deploy()
    flow = server.request("POST", "/flows/", {"name": "theirs"})
    server.request("POST", "/deployments/", {"name": "theirs", "flow_id": flow["id"]})
    server.api.delete(server.one("health")["id"])
    del server.flows["ship"]
    server.write()
    reported = server.deploy()
    assert reported == [f"deployment health/health: deleted in Prefect; `{RESET} health` deploys it again"]
    assert set(server.api.deployments()) == {"theirs/theirs", "retrain/retrain"}
    list(reset(server.api, ["health"], server.file))
    assert server.deploy() == []
    assert "health/health" in server.api.deployments()


def test_deployments_without_stored_state_keep_their_settings(
    server: Server, tmp_path: Path, configure: Callable[..., None]
) -> None:
    server.deploy()
    server.set("health", paused=True)
    flow_deployments.state_file().unlink()
    reported = server.deploy()
    assert len(reported) == 1
    assert has(reported, "health/health: paused in Prefect")
    configure(home=tmp_path / "other")
    (tmp_path / "other").mkdir()
    assert differences(server.api) == [], "that home deployed nothing"
