"""What a worker serves: the models in office, who answers which row, and what is done after the answer."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from services.model.predictor import Answer, Predictor, open_predictor, response_document
from services.model.results import PREDICTION_ID, ChallengerFailure, Identity, PredictionResult
from services.model.traffic_split import TrafficSplit
from services.telemetry.metrics import Metrics
from truecourse.serving.rows import Rows

log = logging.getLogger("truecourse.serving")
LoggedResult = PredictionResult | ChallengerFailure
Record = Callable[[LoggedResult], None]
SHADOW_QUEUE = 64
"""So many requests may wait for the shadow; what comes beyond them is counted, and not scored."""


class ModelRouter:
    """Nothing until the service has opened its model. `record` is told of every answer, off the answer's path."""

    def __init__(self) -> None:
        self.split: TrafficSplit | None = None
        self.record: Record | None = None
        self.metrics: Metrics | None = None
        self.follower_status: Callable[[], dict[str, Any]] = dict
        """Tells how the worker keeps step with the aliases."""
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="predict")
        self.counts: Counter[str] = Counter()
        self._shadow = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._waiting = threading.Semaphore(SHADOW_QUEUE)

    def open(self, predictor: Predictor) -> None:
        self.split = TrafficSplit(predictor)

    def predictor(self, folder: Path) -> Predictor:
        """Of an unpacked Bento's `model/` folder; its reads of the online store are counted."""
        return open_predictor(folder, self.metrics)

    def answer(self, split: TrafficSplit, rows: Rows, at: datetime, explain: bool) -> tuple[Answer, list[LoggedResult]]:
        """The client's answer, and what is to be told of it. A challenger that fails is answered for by the champion.
        Raises PlatformError when the online store cannot be read."""
        theirs, failure = split.challenged(rows), None
        if split.challenger is not None and theirs:
            rest = sorted(set(range(len(rows))) - set(theirs))
            try:
                parts = [split.challenger.answer(rows.part(theirs), explain=explain, role="challenger", at=at)]
            except Exception as error:
                failure = self._failed("challenger", split.challenger.identity, error)
            else:
                if rest:
                    parts.insert(0, split.champion.answer(rows.part(rest), explain=explain, at=at))
                return response_document(parts, rest + theirs), [*parts]
        answered = split.champion.answer(rows, explain=explain, at=at)
        told: list[LoggedResult] = [answered]
        if split.challenger is not None and failure:
            instead = [answered.answers[i] for i in theirs]
            told.append(ChallengerFailure(split.challenger.identity, at, rows.part(theirs), instead, failure))
        return response_document([answered]), told

    def finish(self, split: TrafficSplit, parts: list[LoggedResult]) -> None:
        """To be called once the client has its answer: record it, and let the shadow score what it did not answer, nor
        was to."""
        for part in parts:
            self._log(part)
        if (
            split.shadow
            and split.challenger is not None
            and not any(isinstance(part, ChallengerFailure) for part in parts)
        ):
            for part in parts:
                if isinstance(part, PredictionResult) and part.role == "champion":
                    self._queue(split.challenger, part)

    def _log(self, part: LoggedResult) -> None:
        try:
            if self.record is not None:
                self.record(part)
        except Exception as error:
            self._failed("record", part.identity, error)

    def _queue(self, shadow: Predictor, part: PredictionResult) -> None:
        if not self._waiting.acquire(blocking=False):
            self.counts["shadow_skipped"] += len(part.rows)
            return
        self._shadow.submit(self._score, shadow, part)

    def _score(self, shadow: Predictor, part: PredictionResult) -> None:
        try:
            ids = [answer[PREDICTION_ID] for answer in part.answers]
            answered = shadow.answer(part.rows, role="shadow", at=part.at, ids=ids)
            self.counts["shadow_scored"] += len(part.rows)
            self._log(answered)
        except Exception as error:
            failure = self._failed("shadow", shadow.identity, error)
            self._log(ChallengerFailure(shadow.identity, part.at, part.rows, part.answers, failure))
        finally:
            self._waiting.release()

    def _failed(self, what: str, identity: Identity, error: Exception) -> str:
        """Told of without its message, which may hold what was sent; and once in a hundred, to keep the log short. The
        kind of the error."""
        count, kind = self.counts[f"{what}_failed"], type(error).__name__
        self.counts[f"{what}_failed"] += 1
        if self.metrics is not None:
            self.metrics.count_challenger_failure(what)
        if count % 100 == 0:
            log.error("version %d: %s failed: %s", identity.version, what, kind)
        return kind

    def status(self) -> dict[str, Any]:
        """Who is in office in this worker, how the challenger does, and whether the aliases are followed."""
        split = self.split
        if split is None:
            return {"champion": None}
        return {
            "champion": split.champion.identity.to_document(),
            "challenger": split.challenger.identity.to_document() if split.challenger else None,
            "shadow": split.shadow,
            "share": split.share,
            "aliases": split.number,
            "counts": dict(self.counts),
            **self.follower_status(),
        }
