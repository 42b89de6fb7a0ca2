"""Requests that the event loop took up together are answered together: for sixteen of one row, the trees are called
once, the online store is asked once, and the log gets one entry. Nobody waits for requests that have not come yet.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.incumbents import Incumbents
from services.limits import Turns
from services.prediction import Answer
from services.served import Served
from truecourse.errors import RequestError
from truecourse.rows import Rows

Done = Callable[[Answer | Exception], None]
"""What is told the answer to a request, or why there is none."""


@dataclass(eq=False, slots=True)
class Waiting:
    """The rows of one request as they were sent."""

    rows: list[Any]
    done: Done
    answered: bool = False

    def answer(self, answer: Answer | Exception) -> None:
        self.answered = True
        self.done(answer)


class Gathering:
    """`most`: trees walked, rows times trees, for requests that are answered together: so long is the loop held up.

    The contract is asked of all rows together too. Requests that it refuses are set apart; where anything else fails,
    each is answered for itself."""

    def __init__(self, served: Served, turns: Turns, most: int) -> None:
        self._served, self._turns, self._most = served, turns, most
        self._now: Incumbents | None = None
        self._waiting: list[Waiting] = []
        self._rows = 0
        turns.when_full = self._answer

    def wants(self, now: Incumbents) -> bool:
        """Whether others are being taken up, and no challenger is held against the champion, request by request."""
        return self._turns.crowded and now.challenger is None

    def add(self, now: Incumbents, rows: list[Any], done: Done) -> None:
        """`done` is called before the event loop's next turn is over."""
        if self._waiting and (now is not self._now or (self._rows + len(rows)) * now.champion.model.trees > self._most):
            self._answer()
        if not self._waiting:
            self._now = now
            asyncio.get_running_loop().call_soon(self._answer)
        self._waiting.append(Waiting(rows, done))
        self._rows += len(rows)

    def _answer(self) -> None:
        now, waiting = self._now, self._waiting
        self._waiting, self._rows = [], 0
        if now is not None and waiting:  # they may be answered already, where there were too many for one call
            began = self._turns.shedder.clock()
            self._settle(now, waiting)
            self._turns.shedder.worked(began, len(waiting))

    def _settle(self, now: Incumbents, waiting: list[Waiting]) -> None:
        """Every one is answered or refused after it."""
        try:
            refused = self._together(now, waiting)
            rest = [one for one in waiting if one not in refused]
            if refused and rest:
                self._together(now, rest)
        except Exception:
            refused = {one for one in waiting if not one.answered}
        for one in waiting:
            if one in refused:
                self._alone(now, one)

    def _together(self, now: Incumbents, waiting: list[Waiting]) -> set[Waiting]:
        """Answer all of them, or none: those that hold the rows which the contract refuses."""
        at, owners = datetime.now(UTC), [one for one in waiting for _ in one.rows]
        rows = now.champion.rows.read([row for one in waiting for row in one.rows], at)
        if not rows.faults:
            self._tell(now, waiting, rows, at)
        return {owners[fault.row] for fault in rows.faults}

    def _alone(self, now: Incumbents, one: Waiting) -> None:
        try:
            at = datetime.now(UTC)
            self._tell(now, [one], now.champion.rows.accepted(one.rows, at), at)
        except Exception as error:
            if isinstance(error, RequestError):  # no fault of ours that anybody would look for
                error.__traceback__ = None  # whose frames hold all that waits, and so this: a cycle
            one.answer(error)

    def _tell(self, now: Incumbents, waiting: list[Waiting], rows: Rows, at: datetime) -> None:
        document, parts = self._served.answer(now, rows, at, explain=False)
        asyncio.get_running_loop().call_soon(self._served.after, now, parts)  # once the answers are sent
        answers, start = document["predictions"], 0
        for one in waiting:
            stop = start + len(one.rows)
            one.answer(document | {"predictions": answers[start:stop]})
            start = stop
