"""The prediction log of a worker: what it serves, recorded, with private values hidden, into its spool."""

import logging
from collections.abc import Mapping
from typing import Any

from services.log.spool import Spool
from services.log.spool_types import Limits
from services.model.model_router import ModelRouter
from services.model.traffic_split import TrafficSplit
from truecourse.serving.log_shipping import spool_folder
from truecourse.serving.prediction_log import encode_entry
from truecourse.serving.privacy import Masks
from truecourse.settings import get_settings

log = logging.getLogger("truecourse.log")


class Masking:
    """Makes the bytes of entries. The private values are those of every problem that came into office in this worker:
    an entry of the model before is hidden as well as one of the model after."""

    def __init__(self, router: ModelRouter, secret: bytes) -> None:
        self._router, self._secret = router, secret
        self._seen: TrafficSplit | None = None
        self._masks = Masks({}, secret)

    def __call__(self, entry: Mapping[str, Any]) -> bytes:
        split = self._router.split
        if split is not None and split is not self._seen:
            self.learn(split)
        return encode_entry(self._masks.apply(entry))

    def learn(self, split: TrafficSplit) -> None:
        predictors = (split.champion, split.challenger)
        found = [Masks.of(predictor.problem, self._secret) for predictor in predictors if predictor is not None]
        for masks in found:
            self._masks = self._masks.merge(masks)
        self._seen = split


def open_log(router: ModelRouter) -> Spool | None:
    """The spool that the worker records into from now on; None if the settings want no log. Needs an open model."""
    settings = get_settings()
    if not settings.log or router.split is None:
        return None
    masking = Masking(router, settings.log_secret.get_secret_value().encode())
    masking.learn(router.split)
    limits = Limits(sync=settings.log_sync, memory=settings.log_memory, disk=settings.log_disk << 20)
    spool = Spool(spool_folder(router.split.champion.problem.name), masking, limits)
    spool.start()
    router.record = spool.put
    return spool
