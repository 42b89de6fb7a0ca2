"""A second process for the replay, for work that would block the interpreter lock of the first."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.processes import exit_with_parent
from truecourse.storage.delta_tables import Tables

P = ParamSpec("P")
T = TypeVar("T")
_arguments: list[Any] = []
"""In the worker process: the problem and its tables, which cache opened tables."""


class WorkerProcess:
    """A worker process that runs submitted functions one at a time, in order.

    It lives as long as the block, with the settings at the block's start. If the parent process dies, it exits."""

    def __init__(self, problem: str) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _start_worker, (problem,))

    def __enter__(self) -> Self:
        self.submit(_warm_up)  # starts the process, which imports its modules
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[Concatenate[Problem, Tables, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Call the function in the worker process with the problem, its tables, and these arguments."""
        return self._pool.submit(_call, function, args, kwargs)


def _start_worker(problem: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one
    exit_with_parent()
    _arguments[:] = load_problem(problem), Tables()


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*_arguments, *args, **kwargs)


def _warm_up(problem: Problem, tables: Tables) -> int:
    from truecourse.monitoring.quality import quality_check as quality  # noqa: F401

    return os.getpid()
