"""The alias follower: a worker fetches, verifies and warms up each new champion or challenger, then switches to it.

A version that cannot be served is refused and reported; the models before it go on answering."""

import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.http.rollout_gate import OPEN
from services.model.model_router import ModelRouter
from services.model.predictor import Predictor
from services.model.traffic_split import TrafficSplit
from services.process import endpoint_process
from truecourse.deployment.bento import running_code
from truecourse.errors import IntegrityError, ModelError, PlatformError, RequestError, StorageError, TruecourseError
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases

log = logging.getLogger("truecourse.serving")
PERIOD = 0.25
"""Seconds between two checks of the aliases; each reads one object, which mostly does not exist yet."""
PATIENCE = 30.0
"""Longest pause in seconds before a refused version is tried again: it may have been packaged meanwhile."""


class AliasFollower:
    """`source`: the `src` folder of the Bento whose code this process runs. `gate`: the folder of the rollout gate
    (services/http/rollout_gate.py); until the gate is open there is no challenger, since the smoke test expects the
    model of the Bento."""

    def __init__(self, router: ModelRouter, source: Path, gate: Path | None = None) -> None:
        self._router = router
        self._gate, self._is_waiting = gate, False
        self._code = running_code(source)
        self._seen: Aliases | None = None
        self._refused: dict[str, str] = {}
        self._storage = ""
        self._pause, self._again = 1.0, 0.0
        router.follower_status = self.status

    def start(self) -> None:
        threading.Thread(target=self._run, name="follow", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """`refused`: by role, why the aliased version is not served. `storage`: why the aliases cannot be read."""
        return {"following": True, "refused": dict(self._refused), "storage": self._storage or "reachable"}

    def step(self) -> None:
        """Check the aliases once and apply a change. Raises nothing: a worker serves on when storage fails."""
        try:
            newest = self._newest()
            self._storage = ""
        except StorageError as error:
            if not self._storage:
                log.warning("the aliases cannot be read; the current ones stay: %s", error.what)
            self._storage = error.what
            return
        if newest is None:
            return
        if self._seen is None or newest.number != self._seen.number:
            self._seen, self._pause, self._again = newest, 1.0, 0.0
        elif not (self._is_waiting and self._is_gate_open()) and (not self._refused or time.monotonic() < self._again):
            return
        self._follow(newest)

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            try:
                self.step()
            except Exception as error:  # one bad entry must not end the thread
                log.error("applying the aliases failed: %s", type(error).__name__)

    def _newest(self) -> Aliases | None:
        split = self._router.split
        assert split is not None
        ledger = aliases.ledger(split.champion.problem.name)
        if self._seen is None:
            return ledger.newest()
        newest = self._seen
        while (entry := ledger.after(newest.number)) is not None:
            newest = entry
        return newest

    def _follow(self, entry: Aliases) -> None:
        split, self._refused = self._router.split, {}
        assert split is not None
        held = [predictor for predictor in (split.champion, split.challenger) if predictor is not None]
        champion = self._get_or_open("champion", entry.champion, held) or split.champion
        self._is_waiting = aliases.is_challenger_active(entry) and not self._is_gate_open()
        challenger = (
            self._get_or_open("challenger", entry.challenger, held)
            if aliases.is_challenger_active(entry) and not self._is_waiting
            else None
        )
        if challenger is not None and (why := find_mismatch(champion, challenger)):
            self._refuse("challenger", challenger.identity.version, why)
            challenger = None
        active = challenger is not None
        self._router.split = TrafficSplit(
            champion, challenger, entry.shadow and active, entry.share if active else 0.0, entry.number
        )
        if champion is not split.champion:
            log.info("serving version %d, by entry %d of the aliases", champion.identity.version, entry.number)
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, PATIENCE)

    def _is_gate_open(self) -> bool:
        return self._gate is None or (self._gate / OPEN).exists()

    def _get_or_open(self, role: str, version: ModelVersion | None, held: list[Predictor]) -> Predictor | None:
        """The predictor of a version, reused or newly opened; None where there is no version or it is refused."""
        if version is None:
            return None
        for predictor in held:
            if (predictor.identity.version, predictor.identity.sha256) == (version.version, version.model_sha256):
                return predictor
        try:
            return self._open(version)
        except TruecourseError as error:
            self._refuse(role, version.version, error.what)
        except Exception as error:  # a problem's code may raise anything
            self._refuse(role, version.version, f"opening failed: {type(error).__name__}")
        return None

    def _open(self, version: ModelVersion) -> Predictor:
        package = endpoint_process.find_package(version.problem, version.version)
        if package.code != self._code:
            what = "its Bento has other code or another environment than this server: deploy it"
            raise ModelError(what, where=package.bento.key, hint="truecourse deploy")
        folder = endpoint_process.unpack(package.bento, package.version)
        predictor = self._router.open_predictor(folder / "src" / "model")
        if predictor.identity.sha256 != version.model_sha256:
            raise IntegrityError("its Bento has another model", where=package.bento.key, hint="package it again")
        warm_up(predictor)
        return predictor

    def _refuse(self, role: str, version: int, why: str) -> None:
        self._refused[role] = f"version {version}: {why}"
        log.warning("version %d is refused as %s: %s", version, role, why)


def find_mismatch(champion: Predictor, challenger: Predictor) -> str:
    """Why the two models cannot answer the same requests; empty if they can. Categories and examples may differ."""
    loose = {"known": None}
    fields = [[f.model_copy(update=loose) for f in p.contract.fields] for p in (champion, challenger)]
    if fields[0] == fields[1] and champion.contract.has_time == challenger.contract.has_time:
        return ""
    return "its request fields differ from the champion's: it can be promoted, but not compared on live requests"


def warm_up(predictor: Predictor) -> None:
    """Answer the contract's examples, which fills caches before the first request.

    Raises ModelError for a model that fails on them. A failure of the online store is ignored."""
    try:
        rows = predictor.rows.read(predictor.contract.examples, datetime.now(UTC))
        if len(rows):
            predictor.explain(rows)
    except (PlatformError, RequestError):
        return
    except Exception as error:
        what = f"it fails on the examples of its contract: {type(error).__name__}"
        raise ModelError(what, where=f"version {predictor.identity.version}") from error
