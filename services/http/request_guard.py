"""The guard: authentication, rate limits, load, deadlines and metrics of every exchange.

Requests are refused before their body is read.
"""

import logging
import math
import time
from functools import partial

from services.http.authentication import OPEN, Access
from services.http.exchange import FEATURES, LOCAL, Deadlines, Exchange, Message, Reply
from services.http.limits import Buckets
from services.http.load_shedding import Load, Pace
from services.http.peers import is_local
from services.http.readiness import Health
from services.http.refusals import OVERLOAD, Refusal
from services.http.routes import METHODS
from services.http.transport import Connections
from services.model.model_router import ModelRouter
from services.telemetry.prometheus_metrics import Metrics
from truecourse.errors import PlatformError, RequestError
from truecourse.settings import Settings

access_log = logging.getLogger("truecourse.access")
NO_KEYS = Refusal(
    "anonymous", 403, "an endpoint without keys answers only its own machine",
    "set TRUECOURSE_AUTHENTICATION=keys where it runs, or TRUECOURSE_ALLOW_ANONYMOUS=true",
)  # fmt: skip
LIMITED_PATHS = {"/predict", "/explain"}
"""The paths that rate and load limits apply to. Of pushed rows only the rate is limited."""


class Guard:
    """Checks a worker's callers and load. Makes no connection before health.watch()."""

    def __init__(self, settings: Settings, router: ModelRouter) -> None:
        self.router = router
        self.access = Access(settings)
        self.metrics = Metrics({*METHODS, *OPEN})
        self.health = Health(router, self.access, self.metrics)
        self.load = Load(partial(_limit, settings.max_delay, router))
        self.pace = Pace()
        self.buckets = Buckets(settings.rate_limit, settings.rate_burst)
        self.deadlines = Deadlines(settings.request_timeout)
        self.connections = Connections(settings, self.metrics)
        self.exposes_metrics = settings.metrics
        self.logs_requests = settings.access_log
        self.leaving = False
        """Whether every reply closes its connection."""
        if self.logs_requests:
            access_log.setLevel(logging.INFO)

    def refusal(self, exchange: Exchange) -> Refusal | None:
        """Why a request is refused; None if it is not. Returned, not raised: under overload most requests end here."""
        path, scope = exchange.path, exchange.scope
        if not (self.access.is_open or scope.get(LOCAL) or _is_local(scope)):
            return NO_KEYS
        try:
            key = self.access.holder(path, scope["headers"])
        except RequestError as error:
            reason = "forbidden" if error.status == 403 else "unauthenticated"
            return Refusal(reason, error.status, error.what, error.hint)
        except PlatformError as error:
            return Refusal("keys", 503, error.what, error.hint, 1)
        if path not in LIMITED_PATHS and path != FEATURES:
            return None
        exchange.holder = key.id if key is not None else ""
        exchange.caller = exchange.holder or (scope.get("client") or ("",))[0]
        wait = self.buckets.take(exchange.caller)
        if wait:
            return Refusal("rate", 429, "too many requests of this caller", "slow down", math.ceil(wait))
        return None if path == FEATURES or self.load.admits(exchange) else OVERLOAD  # another process writes rows

    def timeout_refusal(self, exchange: Exchange) -> Refusal:
        """The refusal of an exchange that took too long."""
        status, what = (504, "was not answered") if exchange.is_complete else (408, "was not received")
        hint = "try again" if exchange.is_complete else "send the body at once"
        return Refusal("timeout", status, f"the request {what} in {self.deadlines.seconds} s", hint)

    def refuse(self, refusal: Refusal) -> Reply:
        self.metrics.count_refusal(refusal.reason)
        return refusal.reply

    def finish(self, exchange: Exchange) -> None:
        """Record the end of an exchange: answered, or its client is gone."""
        self.deadlines.end(exchange)
        seconds = time.perf_counter() - exchange.started
        self.metrics.count_request(exchange.path, exchange.status, seconds)
        if self.logs_requests:
            caller, *_ = exchange.scope.get("client") or ("",)
            line = caller, exchange.scope["method"], exchange.scope["path"][:200], exchange.status, seconds * 1000
            access_log.info("%s %s %r %d in %.1f ms", *line)


def _limit(setting: float | None, router: ModelRouter) -> float:
    """Longest wait of a request in seconds: the setting, or else the champion's latency objective."""
    if setting is not None:
        return setting
    if router.split is None:
        return 0.0
    return router.split.champion.problem.serving.objectives.latency.total_seconds()


def _is_local(scope: Message) -> bool:
    """Whether a request comes from this machine, whatever its proxy headers say."""
    found = scope.get(LOCAL)
    return is_local(scope.get("client"), scope.get("server")) if found is None else bool(found)
