"""The BentoML service. It is imported from inside a Bento, next to the packaged `model/` and `problems/`."""

import gc
import logging
from pathlib import Path
from typing import Any

import bentoml

from services.compat import circus_clock, prometheus_files
from services.http import fast_path
from services.http.authentication import require_safe
from services.http.limits import per_worker
from services.http.middleware import protect
from services.http.request_guard import Guard
from services.http.routes import Endpoint
from services.log.recorder import open_log
from services.model.model_router import ModelRouter
from services.model.scoring_script import init
from services.process.alias_follower import AliasFollower
from services.push.connection import FeatureWriter
from services.telemetry import log_redaction
from truecourse.settings import get_settings, is_container, trust_proxies
from truecourse.storage.format import refuse_newer_format
from truecourse.storage.object_store import open_store

SOURCE = Path(__file__).resolve().parent.parent
ROUTER = ModelRouter()
SETTINGS = get_settings()
trust_proxies(SETTINGS)
prometheus_files.preallocate()
circus_clock.ignore_system_clock()
GUARD = Guard(per_worker(SETTINGS), ROUTER)
WRITER = FeatureWriter(SOURCE) if SETTINGS.push else None
if is_container():
    require_safe(SETTINGS)  # the container's entrypoint does not check our settings


class Predictions:
    """Serves predictions and explanations: of the packaged model, then of the models that the aliases name."""

    def __init__(self) -> None:
        log_redaction.install()
        logging.getLogger("uvicorn.access").propagate = False  # else every request formats an unused line
        ROUTER.metrics = GUARD.metrics
        ROUTER.open(init(watch=GUARD.metrics).predictor)
        if SETTINGS.follow:
            refuse_newer_format(open_store())
            follower = AliasFollower(ROUTER, SOURCE, SETTINGS.admission)
            follower.step()  # before the first request: the aliases may name a newer model than the Bento's
            follower.start()
        if WRITER is not None:
            WRITER.start()
        self._log = open_log(ROUTER)
        if self._log is not None:
            GUARD.health.log_status = self._log.status
        if SETTINGS.tls_certificate or SETTINGS.tls_key:
            GUARD.health.certificate = fast_path.use_certificate(SETTINGS.tls_certificate, SETTINGS.tls_key).status
        GUARD.connections.reserve_files()
        GUARD.health.watch()
        gc.collect()
        gc.freeze()  # these objects stay: collecting them would block requests for tens of milliseconds
        gc.set_threshold(10_000, 20, 50)  # requests leave no cycles: the default of 700 objects is too often

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        GUARD.metrics.flush()
        if WRITER is not None:
            WRITER.close()
        if self._log is not None:
            self._log.close()

    def __is_ready__(self) -> bool:
        return ROUTER.split is not None


service: Any = bentoml.service(
    name="truecourse",
    workers=SETTINGS.workers,
    metrics={"enabled": False},  # ours have bounded labels
    logging={"access": {"enabled": False}},  # ours is services/http/request_guard.py's
    tracing={"excluded_urls": ["."]},  # an unexported span for each request costs more than parsing it
)(Predictions)
protect(service, GUARD, Endpoint(ROUTER, GUARD.load, WRITER), SETTINGS)
