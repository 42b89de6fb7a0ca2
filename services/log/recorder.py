"""The prediction log of a worker: results are encoded, with private values masked, and put into its spool."""

import logging
from collections.abc import Mapping
from typing import Any

from services.log.spool import Limits, Spool
from services.model.model_router import ModelRouter
from services.model.traffic_split import TrafficSplit
from truecourse.serving.log_shipping import spool_folder
from truecourse.serving.prediction_log import encode_entry
from truecourse.serving.privacy import Masks
from truecourse.settings import get_settings

log = logging.getLogger("truecourse.log")


class MaskingEncoder:
    """Encodes log entries. Masks the private values of every problem that this worker has served, so entries of the
    previous model are masked too."""

    def __init__(self, router: ModelRouter, secret: bytes) -> None:
        self._router, self._secret = router, secret
        self._last_split: TrafficSplit | None = None
        self._masks = Masks({}, secret)

    def __call__(self, entry: Mapping[str, Any]) -> bytes:
        split = self._router.split
        if split is not None and split is not self._last_split:
            self.learn(split)
        return encode_entry(self._masks.apply(entry))

    def learn(self, split: TrafficSplit) -> None:
        """Add the private values of the models' problems."""
        predictors = (split.champion, split.challenger)
        added = [Masks.of(predictor.problem, self._secret) for predictor in predictors if predictor is not None]
        for masks in added:
            self._masks = self._masks.merge(masks)
        self._last_split = split


def open_log(router: ModelRouter) -> Spool | None:
    """Open the spool of the worker and record into it; None if the settings disable the log. Needs an open model."""
    settings = get_settings()
    if not settings.log or router.split is None:
        return None
    encoder = MaskingEncoder(router, settings.log_secret.get_secret_value().encode())
    encoder.learn(router.split)
    limits = Limits(sync=settings.log_sync, memory=settings.log_memory, disk=settings.log_disk << 20)
    spool = Spool(spool_folder(router.split.champion.problem.name), encoder, limits)
    spool.start()
    router.record = spool.put
    return spool
