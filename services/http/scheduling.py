"""Scheduling of waiting requests: in the event loop, a few milliseconds at a time, or in a few threads.

Between two turns the event loop reads new requests. So under load many are answered together, and each turn takes the
fairest choice of all that wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from services.http.exchange import Done, Exchange, Reply
from services.http.load_shedding import Lane, Load, Task

TURN = 0.004
"""Expected seconds of work in one turn of the event loop; a health check waits at most about so long."""
ONE_REQUEST = 1e-9
"""A budget in seconds that any one request exceeds."""
THREADS = 2
GONE = Reply(499, b"")
"""The reply to a request whose client disconnected; it is not sent."""


class Work(Protocol):
    def answer_together(self, tasks: list[Task]) -> list[Task]:
        """Answer tasks in the event loop; return those that would block it for too long."""

    def answer_alone(self, task: Task) -> Reply:
        """Answer one task, in a thread."""


class Scheduler:
    """Runs tasks by fairness and load. `refuse`: makes the reply to accepted requests that become too late."""

    def __init__(self, load: Load, work: Work, threads: Executor, refuse: Callable[[], Reply]) -> None:
        self._load, self._work, self._threads, self._refuse = load, work, threads, refuse
        self._awake = False
        self._woken = 0.0
        self._running = 0

    def put(self, exchange: Exchange, body: bytes, done: Done) -> None:
        """Queue a request; `done` is called with its reply, later, from the event loop."""
        self._load.put(exchange, body, done)
        self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake, self._woken = True, self._load.clock()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._awake = False
        load = self._load
        try:
            tasks = self._next(load.light, TURN)
            if tasks:
                self._answer(tasks)
        finally:
            load.learn_turn(load.clock() - self._woken)
            if load.light.queue:
                self._wake()
            self._start()

    def _answer(self, tasks: list[Task]) -> None:
        load = self._load
        began = load.clock()
        longer = self._work.answer_together(tasks)
        answered = [task for task in tasks if task not in longer] if longer else tasks
        if answered:
            load.learn(load.light, answered, began)
        for task in longer:
            if load.fits(load.heavy, task.exchange.caller):
                load.move(task, heavy=True)
            else:
                task.done(self._refuse())

    def _next(self, lane: Lane, seconds: float) -> list[Task]:
        """Take the next tasks, and refuse those that are late or whose client disconnected."""
        taken, late = self._load.take(lane, seconds)
        for task in late:
            task.done(GONE if task.exchange.is_gone else self._refuse())
        gone = [task for task in taken if task.exchange.is_gone]
        for task in gone:
            task.done(GONE)
        return [task for task in taken if not task.exchange.is_gone] if gone else taken

    def _start(self) -> None:
        """Start tasks in idle threads."""
        lane = self._load.heavy
        while self._running < THREADS and lane.queue:
            for task in self._next(lane, ONE_REQUEST):
                self._run_in_thread(lane, task)

    def _run_in_thread(self, lane: Lane, task: Task) -> None:
        began = self._load.clock()
        self._running += 1
        lane.running += task.seconds

        def end(work: "asyncio.Future[Reply]") -> None:
            self._running -= 1
            lane.running = lane.running - task.seconds if self._running else 0.0
            if not work.cancelled():
                self._load.learn(lane, [task], began)
                task.done(work.result())
            self._start()

        work = asyncio.get_running_loop().run_in_executor(self._threads, self._work.answer_alone, task)
        work.add_done_callback(end)
