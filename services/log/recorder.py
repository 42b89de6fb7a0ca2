"""The prediction log of a worker: what it serves, recorded, with private values hidden, into its spool."""

import logging
from collections.abc import Mapping
from typing import Any

from services.log.spool import Spool
from services.log.spool_types import Limits
from services.model.model_router import Served
from services.model.traffic_split import Incumbents
from truecourse.serving.log_shipping import spool_folder
from truecourse.serving.prediction_log import encoded
from truecourse.serving.privacy import Masks
from truecourse.settings import get_settings

log = logging.getLogger("truecourse.log")


class Masking:
    """Makes the bytes of entries. The private values are those of every problem that came into office in this worker:
    an entry of the model before is hidden as well as one of the model after."""

    def __init__(self, served: Served, secret: bytes) -> None:
        self._served, self._secret = served, secret
        self._seen: Incumbents | None = None
        self._masks = Masks({}, secret)

    def __call__(self, entry: Mapping[str, Any]) -> bytes:
        now = self._served.now
        if now is not None and now is not self._seen:
            self.learn(now)
        return encoded(self._masks.masked(entry))

    def learn(self, now: Incumbents) -> None:
        predictors = (now.champion, now.challenger)
        found = [Masks.of(predictor.problem, self._secret) for predictor in predictors if predictor is not None]
        for masks in found:
            self._masks = self._masks.joined(masks)
        self._seen = now


def open_log(served: Served) -> Spool | None:
    """The spool that the worker records into from now on; None if the settings want no log. Needs an open model."""
    settings = get_settings()
    if not settings.log or served.now is None:
        return None
    masking = Masking(served, settings.log_secret.get_secret_value().encode())
    masking.learn(served.now)
    limits = Limits(sync=settings.log_sync, memory=settings.log_memory, disk=settings.log_disk << 20)
    spool = Spool(spool_folder(served.now.champion.problem.name), masking, limits)
    spool.start()
    served.record = spool.put
    return spool
