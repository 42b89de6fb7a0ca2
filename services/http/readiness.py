"""Health of the endpoint: the model it serves, and whether its dependencies answer.

A thread of each worker checks every PERIOD seconds, and reloads the keys. So no request waits for a check, and callers
cannot trigger one.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from services.http.authentication import Access
from services.model.model_router import ModelRouter
from services.model.predictor import Predictor
from services.telemetry.prometheus_metrics import Metrics
from truecourse.errors import TruecourseError
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.serving")
PERIOD = 2.0
Check = Callable[[], None]
LogStatus = Callable[[], Any]
"""Returns the status of the prediction log: a frozen dataclass with `healthy`, `lag_seconds` and `dropped`."""


class Health:
    """The results of the last round of checks."""

    def __init__(self, router: ModelRouter, access: Access, metrics: Metrics) -> None:
        self._router, self._access, self._metrics = router, access, metrics
        self._began = time.time()
        self._checked: dict[str, dict[str, Any]] = {}
        self._model: tuple[str, ...] = ()
        self.log_status: LogStatus | None = None
        self.certificate: Callable[[], dict[str, Any]] | None = None

    @property
    def _predictor(self) -> Predictor | None:
        return None if self._router.split is None else self._router.split.champion

    def watch(self) -> None:
        """Check once, then periodically in a daemon thread."""
        self.check()
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            try:
                self.check()
            except Exception:  # else the thread would end, and keys would no longer be reloaded
                log.exception("checking the endpoint's health failed")

    def check(self) -> None:
        self._metrics.flush()
        checks: dict[str, Check] = {"storage": _reach_storage}
        if self._access.requires_keys:
            checks["keys"] = self._access.refresh
        predictor = self._predictor
        if predictor is not None and predictor.reader is not None:
            checks["online_store"] = predictor.reader.check_connection
        for name, check in checks.items():
            self._checked[name] = found = _outcome(check)
            self._metrics.up.labels(name).set(found["answers"])
        self._export_model()
        self._export_log()

    def _export_model(self) -> None:
        if self._predictor is None:
            return
        about = self._predictor.about
        model = (about["problem"], str(about["version"]), about["model_sha256"])
        if model != self._model:
            if self._model:
                self._metrics.model.labels(*self._model).set(0)
            self._metrics.model.labels(*model).set(1)
            self._model = model

    def _export_log(self) -> None:
        if self.log_status is not None:
            status = self.log_status()
            self._metrics.log_lag.set(status.lag_seconds)
            self._metrics.log_dropped.set(status.dropped)
            self._metrics.up.labels("prediction_log").set(status.healthy)

    def document(self) -> dict[str, Any]:
        """The health document. `status`: `ok`; `degraded` if a dependency does not answer, or the log is not written,
        while predictions are still possible; `failing` if they are not."""
        down = {name for name, found in self._checked.items() if not found["answers"]}
        log_status = None if self.log_status is None else self.log_status()
        certificate = {} if self.certificate is None else {"certificate": self.certificate()}
        degraded = bool(down) or (log_status is not None and not log_status.healthy)
        degraded |= any(not found["answers"] for found in certificate.values())
        predictor = self._predictor
        required = predictor is not None and predictor.reader is not None and predictor.reader.is_required
        failing = predictor is None or (required and "online_store" in down)
        about = {} if predictor is None else predictor.about
        return {
            "status": "failing" if failing else "degraded" if degraded else "ok",
            "model": {name: about.get(name) for name in ("problem", "version", "model_sha256")},
            **self._checked,
            **certificate,
            "log": None if log_status is None else asdict(log_status),
            "worker": os.getpid(),
            "uptime_seconds": round(time.time() - self._began, 1),
        }


def _reach_storage() -> None:
    open_store().exists("keys/000000001.json")


def _outcome(check: Check) -> dict[str, Any]:
    """Run a check: whether it answered, its duration, and the kind of its error, whose text may hold addresses."""
    started = time.perf_counter()
    try:
        check()
        error = None
    except (TruecourseError, OSError) as failure:
        error = type(failure).__name__
    return {"answers": error is None, "seconds": round(time.perf_counter() - started, 4), "error": error}
