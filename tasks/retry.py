"""The retry policy of tasks: which errors are transient, and the delays between attempts."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from truecourse.errors import AccessDenied, AlreadyExists, FormatError, NotFound, PlatformError, StorageError

_FINAL = (AccessDenied, AlreadyExists, FormatError, NotFound)


def _is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    error = state.data  # the exception itself: Prefect builds this state for the retry condition only
    return isinstance(error, StorageError | PlatformError | ConnectionError | TimeoutError) and not isinstance(
        error, _FINAL
    )


RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_transient,
}
"""Keyword arguments for @task: three retries after 2, 4 and 8 seconds, for storage and server errors only."""
