"""Micro-batching: requests that wait at the same time are scored together, and none waits for later ones.

Sixteen one-row requests take one call of the trees, one read of the online store and one log entry.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.model.model_router import ModelRouter
from services.model.predictor import Answer
from services.model.traffic_split import TrafficSplit
from truecourse.errors import RequestError
from truecourse.serving.rows import Rows
from truecourse.unique_ids import new_ids

OnAnswer = Callable[[Answer | Exception], None]
"""Called with the answer to a request, or the error."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """The rows of one request as sent. `ids`: of their predictions; None for new ones."""

    rows: list[Any]
    on_answer: OnAnswer
    ids: Sequence[str] | None = None
    is_answered: bool = False

    def answer(self, answer: Answer | Exception) -> None:
        self.is_answered = True
        self.on_answer(answer)


class MicroBatcher:
    """Validates and scores the rows of several requests together.

    Requests with invalid rows are taken out and answered alone; after any other failure each request is."""

    def __init__(self, router: ModelRouter) -> None:
        self._router = router

    def answer(self, split: TrafficSplit, waiting: list[PendingRequest]) -> None:
        """Answer or refuse every request."""
        try:
            refused = self._answer_together(split, waiting)
            rest = [one for one in waiting if one not in refused]
            if refused and rest:
                self._answer_together(split, rest)
        except Exception:
            refused = {one for one in waiting if not one.is_answered}
        for one in waiting:
            if one in refused:
                self._answer_alone(split, one)

    def _answer_together(self, split: TrafficSplit, waiting: list[PendingRequest]) -> set[PendingRequest]:
        """Answer all requests, or none if some are invalid; the invalid ones."""
        at, owners = datetime.now(UTC), [one for one in waiting for _ in one.rows]
        rows = split.champion.rows.read([row for one in waiting for row in one.rows], at)
        if not rows.faults:
            self._score(split, waiting, rows, at)
        return {owners[fault.row] for fault in rows.faults}

    def _answer_alone(self, split: TrafficSplit, one: PendingRequest) -> None:
        try:
            at = datetime.now(UTC)
            self._score(split, [one], split.champion.rows.accept_rows(one.rows, at), at)
        except Exception as error:
            if isinstance(error, RequestError):  # a client's error needs no traceback
                error.__traceback__ = None  # its frames hold this request: a reference cycle
            one.answer(error)

    def _score(self, split: TrafficSplit, waiting: list[PendingRequest], rows: Rows, at: datetime) -> None:
        ids = None
        if any(one.ids is not None for one in waiting):
            ids = [id for one in waiting for id in (new_ids(len(one.rows), at) if one.ids is None else one.ids)]
        document, parts = self._router.answer(split, rows, at, explain=False, ids=ids)
        asyncio.get_running_loop().call_soon(self._router.finish, split, parts)  # after the replies are sent
        answers, start = document["predictions"], 0
        for one in waiting:
            stop = start + len(one.rows)
            one.answer(document | {"predictions": answers[start:stop]})
            start = stop
