"""A second process beside the replay, for what would hold the interpreter's lock while the replay has other work."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.storage.tables import Tables

P = ParamSpec("P")
T = TypeVar("T")
_arguments: list[Any] = []
"""In the second process: the problem and its tables, which keep open what they have read."""


class WorkerProcess:
    """Lives as long as the block, under the settings that hold where it begins; without the block's process it ends
    itself, however that ended. One thing is done at a time, in the order that it was asked for."""

    def __init__(self, problem: str) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _start_worker, (problem,))

    def __enter__(self) -> Self:
        self.submit(_warm_up)  # the process starts, and imports what it needs
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[Concatenate[Problem, Tables, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Call it there with the problem, its tables, and these arguments. What is not there yet is waited for with
        result(), which raises what the function raised."""
        return self._pool.submit(_call, function, args, kwargs)


def _start_worker(problem: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the first process ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _arguments[:] = load_problem(problem), Tables()


def _exit_with_parent() -> None:
    """A first process that was killed sends nothing any more, and its second one must not write after it."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*_arguments, *args, **kwargs)


def _warm_up(problem: Problem, tables: Tables) -> int:
    from truecourse.monitoring.quality import check as quality  # noqa: F401

    return os.getpid()
