"""Health of the endpoint: the model it serves, and whether its dependencies answer.

A thread of each worker checks every PERIOD seconds, and reloads the keys. So no request waits for a check, and callers
cannot trigger one.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

from services.http.authentication import Access
from services.model.model_router import ModelRouter
from services.model.predictor import Predictor
from services.telemetry.prometheus_metrics import Metrics
from truecourse.errors import TruecourseError
from truecourse.responses import CertificateStatus, DependencyStatus, HealthResponse, LogStatus, ServedVersion
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.serving")
PERIOD = 2.0
Check = Callable[[], None]


class Health:
    """The results of the last round of checks."""

    def __init__(self, router: ModelRouter, access: Access, metrics: Metrics) -> None:
        self._router, self._access, self._metrics = router, access, metrics
        self._began = time.time()
        self._checked: dict[str, DependencyStatus] = {}
        self._model: tuple[str, ...] = ()
        self.log_status: Callable[[], LogStatus] | None = None
        self.certificate: Callable[[], CertificateStatus] | None = None

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
            self._metrics.up.labels(name).set(found.answers)
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

    def document(self) -> HealthResponse:
        """The results of the last checks, and the log's status at this moment."""
        log_status = None if self.log_status is None else self.log_status()
        checked: dict[str, DependencyStatus | CertificateStatus] = dict(self._checked)
        if self.certificate is not None:
            checked["certificate"] = self.certificate()
        about = {} if self._predictor is None else self._predictor.about
        return HealthResponse(
            status=self._status(all(found.answers for found in checked.values()), log_status),
            model=ServedVersion(**{name: about.get(name) for name in ServedVersion.model_fields}),
            log=log_status,
            worker=os.getpid(),
            uptime_seconds=round(time.time() - self._began, 1),
            **checked,
        )

    def _status(self, all_answer: bool, log_status: LogStatus | None) -> Literal["ok", "degraded", "failing"]:
        predictor, store = self._predictor, self._checked.get("online_store")
        if predictor is None:
            return "failing"
        if store is not None and not store.answers and predictor.reader is not None and predictor.reader.is_required:
            return "failing"
        return "ok" if all_answer and (log_status is None or log_status.healthy) else "degraded"


def _reach_storage() -> None:
    open_store().exists("keys/000000001.json")


def _outcome(check: Check) -> DependencyStatus:
    """Run a check: whether it answered, its duration, and the kind of its error, whose text may hold addresses."""
    started = time.perf_counter()
    try:
        check()
        error = None
    except (TruecourseError, OSError) as failure:
        error = type(failure).__name__
    return DependencyStatus(answers=error is None, seconds=round(time.perf_counter() - started, 4), error=error)
