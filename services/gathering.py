"""Requests that the event loop took up together are answered together: for sixteen of one row, the trees are called
once, the online store is asked once, and the log gets one entry. Nobody waits for requests that have not come yet.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.incumbents import Incumbents
from services.limits import Turns
from services.prediction import Answer
from services.served import Served


@dataclass(frozen=True)
class Waiting:
    """The rows of one request as they were sent, and the client's answer to be."""

    rows: list[Any]
    answer: "asyncio.Future[Answer]"


class Gathering:
    """`most`: trees walked, rows times trees, for requests that are answered together: so long is the loop held up.

    The contract is asked of all rows together too. Where that refuses some, or anything else fails, each request is
    answered, or refused, for itself."""

    def __init__(self, served: Served, turns: Turns, most: int) -> None:
        self._served, self._turns, self._most = served, turns, most
        self._now: Incumbents | None = None
        self._waiting: list[Waiting] = []
        self._rows = 0

    def wants(self, now: Incumbents) -> bool:
        """Whether others are being taken up, and one model answers all of them."""
        return self._turns.crowded and not (now.challenger and now.share)

    async def answer(self, now: Incumbents, rows: list[Any]) -> Answer:
        """Raises what answering it alone would."""
        loop = asyncio.get_running_loop()
        if self._waiting and (now is not self._now or (self._rows + len(rows)) * now.champion.model.trees > self._most):
            self._answer()
        if not self._waiting:
            self._now = now
            loop.call_soon(self._answer)
        mine = Waiting(rows, loop.create_future())
        self._waiting.append(mine)
        self._rows += len(rows)
        return await mine.answer

    def _answer(self) -> None:
        now, waiting = self._now, self._waiting
        self._waiting, self._rows = [], 0
        if now is None or not waiting:  # the second call, where there were too many for one
            return
        try:
            self._together(now, waiting)
        except Exception as error:
            if len(waiting) == 1:
                _fail(waiting[0], error)
                return
            for one in waiting:
                try:
                    self._together(now, [one])
                except Exception as own:
                    _fail(one, own)

    def _together(self, now: Incumbents, waiting: list[Waiting]) -> None:
        at = datetime.now(UTC)
        rows = now.champion.rows.accepted([row for one in waiting for row in one.rows], at)
        document, parts = self._served.answer(now, rows, at, explain=False)
        answers, start = document["predictions"], 0
        for one in waiting:
            stop = start + len(one.rows)
            if not one.answer.done():  # its client may have gone
                one.answer.set_result(document | {"predictions": answers[start:stop]})
            start = stop
        asyncio.get_running_loop().call_soon(self._served.after, now, parts)  # once the answers are sent


def _fail(one: Waiting, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)
