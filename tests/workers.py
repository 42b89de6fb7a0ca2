"""An endpoint worker without its HTTP server, and a function that moves the aliases it follows."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.model.model_router import LoggedResult, ModelRouter
from services.process import endpoint_process
from services.process.alias_follower import AliasFollower
from truecourse.references import Package
from truecourse.registry import aliases

ROW: dict[str, Any] = {
    "courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"
}  # fmt: skip
MakeVersion = Callable[..., Package]


def move(**changes: Any) -> None:
    aliases.move(aliases.current("deliveries"), "deliveries", "promote", "a test", **changes)


class Worker:
    """The objects that services/service.py creates, used without a server."""

    def __init__(self) -> None:
        folder = endpoint_process.prepare("deliveries")
        self.router = ModelRouter()
        self.router.open(self.router.open_predictor(folder / "src" / "model"))
        self.follower = AliasFollower(self.router, folder / "src")
        self.records: list[LoggedResult] = []
        self.router.record = self.records.append
        self.follower.step()

    def predict(self, *rows: dict[str, Any]) -> dict[str, Any]:
        now = self.router.split
        assert now is not None
        at = datetime.now(UTC)
        read = now.champion.rows.read_request(json.dumps({"rows": rows}).encode(), at)
        document, parts = self.router.answer(now, read, at, explain=False)
        self.router.finish(now, parts)
        return document

    @property
    def version(self) -> int:
        return int(self.predict(ROW)["model"]["version"])

    @property
    def refused(self) -> dict[str, str]:
        refused: dict[str, str] = self.router.status()["refused"]
        return refused

    def step(self) -> None:
        self.follower.step()
