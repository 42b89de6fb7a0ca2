"""What a worker serves: the models in office, who answers which row, and what is done after the answer."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from services.model.predictor import Answer, Predictor, document, open_predictor
from services.model.results import PREDICTION_ID, Answered, Failed, Identity
from services.model.traffic_split import Incumbents
from services.telemetry.metrics import Metrics
from truecourse.serving.rows import Rows

log = logging.getLogger("truecourse.serving")
Told = Answered | Failed
Record = Callable[[Told], None]
SHADOWED = 64
"""So many requests may wait for the shadow; what comes beyond them is counted, and not scored."""


class Served:
    """Nothing until the service has opened its model. `record` is told of every answer, off the answer's path."""

    def __init__(self) -> None:
        self.now: Incumbents | None = None
        self.record: Record | None = None
        self.metrics: Metrics | None = None
        self.follower: Callable[[], dict[str, Any]] = dict
        """Tells how the worker keeps step with the aliases."""
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="predict")
        self.counts: Counter[str] = Counter()
        self._shadow = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._waiting = threading.Semaphore(SHADOWED)

    def open(self, predictor: Predictor) -> None:
        self.now = Incumbents(predictor)

    def predictor(self, folder: Path) -> Predictor:
        """Of an unpacked Bento's `model/` folder; its reads of the online store are counted."""
        return open_predictor(folder, self.metrics)

    def answer(self, now: Incumbents, rows: Rows, at: datetime, explain: bool) -> tuple[Answer, list[Told]]:
        """The client's answer, and what is to be told of it. A challenger that fails is answered for by the champion.
        Raises PlatformError when the online store cannot be read."""
        theirs, failure = now.challenged(rows), None
        if now.challenger is not None and theirs:
            rest = sorted(set(range(len(rows))) - set(theirs))
            try:
                parts = [now.challenger.answer(rows.part(theirs), explain=explain, role="challenger", at=at)]
            except Exception as error:
                failure = self._failed("challenger", now.challenger.identity, error)
            else:
                if rest:
                    parts.insert(0, now.champion.answer(rows.part(rest), explain=explain, at=at))
                return document(parts, rest + theirs), [*parts]
        answered = now.champion.answer(rows, explain=explain, at=at)
        told: list[Told] = [answered]
        if now.challenger is not None and failure:
            instead = [answered.answers[i] for i in theirs]
            told.append(Failed(now.challenger.identity, at, rows.part(theirs), instead, failure))
        return document([answered]), told

    def after(self, now: Incumbents, parts: list[Told]) -> None:
        """To be called once the client has its answer: record it, and let the shadow score what it did not answer, nor
        was to."""
        for part in parts:
            self._log(part)
        if now.shadow and now.challenger is not None and not any(isinstance(part, Failed) for part in parts):
            for part in parts:
                if isinstance(part, Answered) and part.role == "champion":
                    self._queue(now.challenger, part)

    def _log(self, part: Told) -> None:
        try:
            if self.record is not None:
                self.record(part)
        except Exception as error:
            self._failed("record", part.identity, error)

    def _queue(self, shadow: Predictor, part: Answered) -> None:
        if not self._waiting.acquire(blocking=False):
            self.counts["shadow_skipped"] += len(part.rows)
            return
        self._shadow.submit(self._score, shadow, part)

    def _score(self, shadow: Predictor, part: Answered) -> None:
        try:
            ids = [answer[PREDICTION_ID] for answer in part.answers]
            answered = shadow.answer(part.rows, role="shadow", at=part.at, ids=ids)
            self.counts["shadow_scored"] += len(part.rows)
            self._log(answered)
        except Exception as error:
            failure = self._failed("shadow", shadow.identity, error)
            self._log(Failed(shadow.identity, part.at, part.rows, part.answers, failure))
        finally:
            self._waiting.release()

    def _failed(self, what: str, identity: Identity, error: Exception) -> str:
        """Told of without its message, which may hold what was sent; and once in a hundred, to keep the log short. The
        kind of the error."""
        count, kind = self.counts[f"{what}_failed"], type(error).__name__
        self.counts[f"{what}_failed"] += 1
        if self.metrics is not None:
            self.metrics.failed(what)
        if count % 100 == 0:
            log.error("version %d: %s failed: %s", identity.version, what, kind)
        return kind

    def status(self) -> dict[str, Any]:
        """Who is in office in this worker, how the challenger does, and whether the aliases are followed."""
        now = self.now
        if now is None:
            return {"champion": None}
        return {
            "champion": now.champion.identity.told,
            "challenger": now.challenger.identity.told if now.challenger else None,
            "shadow": now.shadow,
            "share": now.share,
            "aliases": now.number,
            "counts": dict(self.counts),
            **self.follower(),
        }
