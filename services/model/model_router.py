"""The models of a worker process: routing rows to champion or challenger, logging results, and shadow scoring."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from services.model.predictor import Answer, Predictor, open_predictor, response_document
from services.model.results import PREDICTION_ID, ChallengerFailure, Identity, PredictionResult
from services.model.traffic_split import TrafficSplit
from services.telemetry.prometheus_metrics import Metrics
from truecourse.serving.rows import Rows

log = logging.getLogger("truecourse.serving")
LoggedResult = PredictionResult | ChallengerFailure
Record = Callable[[LoggedResult], None]
SHADOW_QUEUE = 64
"""Requests that may wait for the shadow model; requests beyond it are counted as skipped."""


class ModelRouter:
    """Routes rows between champion and challenger.

    `split` is None until the service has opened its model. `record` receives every result after the reply is sent."""

    def __init__(self) -> None:
        self.split: TrafficSplit | None = None
        self.record: Record | None = None
        self.in_smoke_test = False
        """Whether requests are those of a smoke test before the rollout gate opens; they are not logged."""
        self.metrics: Metrics | None = None
        self.follower_status: Callable[[], dict[str, Any]] = dict
        """Returns the status of the alias follower."""
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="predict")
        self.counts: Counter[str] = Counter()
        self._shadow = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._slots = threading.Semaphore(SHADOW_QUEUE)

    def open(self, predictor: Predictor) -> None:
        self.split = TrafficSplit(predictor)

    def open_predictor(self, folder: Path) -> Predictor:
        """Open the predictor of an unpacked Bento's `model/` folder; its reads of the online store are counted."""
        return open_predictor(folder, self.metrics)

    def answer(
        self, split: TrafficSplit, rows: Rows, at: datetime, explain: bool, ids: Sequence[str] | None = None
    ) -> tuple[Answer, list[LoggedResult]]:
        """Score the rows: the response body, and the results to log. `ids`: of the predictions; new ones by default.

        Where the challenger raises, the champion answers its rows too. Raises PlatformError when the online store
        cannot be read."""
        challenged, failure = split.challenger_rows(rows), None
        if split.challenger is not None and challenged:
            rest = sorted(set(range(len(rows))) - set(challenged))
            try:
                some = rows.part(challenged)
                of_some = None if ids is None else [ids[i] for i in challenged]
                parts = [split.challenger.answer(some, explain=explain, role="challenger", at=at, ids=of_some)]
            except Exception as error:
                failure = self._count_failure("challenger", split.challenger.identity, error)
            else:
                if rest:
                    of_rest = None if ids is None else [ids[i] for i in rest]
                    parts.insert(0, split.champion.answer(rows.part(rest), explain=explain, at=at, ids=of_rest))
                return response_document(parts, rest + challenged), [*parts]
        result = split.champion.answer(rows, explain=explain, at=at, ids=ids)
        results: list[LoggedResult] = [result]
        if split.challenger is not None and failure:
            instead = [result.answers[i] for i in challenged]
            results.append(ChallengerFailure(split.challenger.identity, at, rows.part(challenged), instead, failure))
        return response_document([result]), results

    def finish(self, split: TrafficSplit, parts: list[LoggedResult]) -> None:
        """Record the results once the reply is sent, and queue the champion's rows for the shadow model.

        Nothing is queued where the challenger failed on rows of this request, and nothing is recorded of a smoke
        test."""
        if self.in_smoke_test:
            return
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
            self._count_failure("record", part.identity, error)

    def _queue(self, shadow: Predictor, part: PredictionResult) -> None:
        if not self._slots.acquire(blocking=False):
            self.counts["shadow_skipped"] += len(part.rows)
            return
        self._shadow.submit(self._score, shadow, part)

    def _score(self, shadow: Predictor, part: PredictionResult) -> None:
        try:
            ids = [answer[PREDICTION_ID] for answer in part.answers]
            result = shadow.answer(part.rows, role="shadow", at=part.at, ids=ids)
            self.counts["shadow_scored"] += len(part.rows)
            self._log(result)
        except Exception as error:
            failure = self._count_failure("shadow", shadow.identity, error)
            self._log(ChallengerFailure(shadow.identity, part.at, part.rows, part.answers, failure))
        finally:
            self._slots.release()

    def _count_failure(self, role: str, identity: Identity, error: Exception) -> str:
        """Count a failure and log every hundredth; the kind of the error.

        The error's message is left out: it may hold values of a request."""
        count, kind = self.counts[f"{role}_failed"], type(error).__name__
        self.counts[f"{role}_failed"] += 1
        if self.metrics is not None:
            self.metrics.count_challenger_failure(role)
        if count % 100 == 0:
            log.error("version %d: %s failed: %s", identity.version, role, kind)
        return kind

    def status(self) -> dict[str, Any]:
        """The champion and challenger of this worker, their counts, and the alias follower's status."""
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
