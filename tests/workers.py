"""A worker of the endpoint without its server, and the aliases that it follows."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.model.model_router import LoggedResult, ModelRouter
from services.process import launch
from services.process.alias_follower import AliasFollower
from truecourse.references import Package
from truecourse.registry import aliases

ROW: dict[str, Any] = {
    "courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"
}  # fmt: skip
Make = Callable[..., Package]


def move(**changes: Any) -> None:
    aliases.move(aliases.current("deliveries"), "deliveries", "promote", "a test", **changes)


class Worker:
    """What services/service.py puts together, asked without a server."""

    def __init__(self) -> None:
        folder = launch.prepare("deliveries")
        self.served = ModelRouter()
        self.served.open(self.served.open_predictor(folder / "src" / "model"))
        self.follower = AliasFollower(self.served, folder / "src")
        self.records: list[LoggedResult] = []
        self.served.record = self.records.append
        self.follower.step()

    def ask(self, *rows: dict[str, Any]) -> dict[str, Any]:
        now = self.served.split
        assert now is not None
        at = datetime.now(UTC)
        read = now.champion.rows.read_request(json.dumps({"rows": rows}).encode(), at)
        document, parts = self.served.answer(now, read, at, explain=False)
        self.served.finish(now, parts)
        return document

    @property
    def version(self) -> int:
        return int(self.ask(ROW)["model"]["version"])

    @property
    def refused(self) -> dict[str, str]:
        refused: dict[str, str] = self.served.status()["refused"]
        return refused

    def step(self) -> None:
        self.follower.step()
