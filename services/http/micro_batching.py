"""Requests that wait together are answered together: for sixteen of one row, the trees are called once, the online
store is asked once, and the log gets one entry. Nobody waits for requests that have not come yet.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.model.model_router import ModelRouter
from services.model.predictor import Answer
from services.model.traffic_split import TrafficSplit
from truecourse.errors import RequestError
from truecourse.serving.rows import Rows

OnAnswer = Callable[[Answer | Exception], None]
"""What is told the answer to a request, or why there is none."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """The rows of one request as they were sent."""

    rows: list[Any]
    tell: OnAnswer
    answered: bool = False

    def answer(self, answer: Answer | Exception) -> None:
        self.answered = True
        self.tell(answer)


class MicroBatcher:
    """The contract is asked of all rows together too. Requests that it refuses are set apart; where anything else
    fails, each is answered for itself."""

    def __init__(self, router: ModelRouter) -> None:
        self._router = router

    def answer(self, split: TrafficSplit, waiting: list[PendingRequest]) -> None:
        """Every one is answered or refused when this returns."""
        try:
            refused = self._together(split, waiting)
            rest = [one for one in waiting if one not in refused]
            if refused and rest:
                self._together(split, rest)
        except Exception:
            refused = {one for one in waiting if not one.answered}
        for one in waiting:
            if one in refused:
                self._alone(split, one)

    def _together(self, split: TrafficSplit, waiting: list[PendingRequest]) -> set[PendingRequest]:
        """Answer all of them, or none: those that hold the rows which the contract refuses."""
        at, owners = datetime.now(UTC), [one for one in waiting for _ in one.rows]
        rows = split.champion.rows.read([row for one in waiting for row in one.rows], at)
        if not rows.faults:
            self._tell(split, waiting, rows, at)
        return {owners[fault.row] for fault in rows.faults}

    def _alone(self, split: TrafficSplit, one: PendingRequest) -> None:
        try:
            at = datetime.now(UTC)
            self._tell(split, [one], split.champion.rows.accept_rows(one.rows, at), at)
        except Exception as error:
            if isinstance(error, RequestError):  # no fault of ours that anybody would look for
                error.__traceback__ = None  # whose frames hold all that waits, and so this: a cycle
            one.answer(error)

    def _tell(self, split: TrafficSplit, waiting: list[PendingRequest], rows: Rows, at: datetime) -> None:
        document, parts = self._router.answer(split, rows, at, explain=False)
        asyncio.get_running_loop().call_soon(self._router.finish, split, parts)  # once the answers are sent
        answers, start = document["predictions"], 0
        for one in waiting:
            stop = start + len(one.rows)
            one.answer(document | {"predictions": answers[start:stop]})
            start = stop
