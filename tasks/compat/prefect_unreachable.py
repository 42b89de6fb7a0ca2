"""Prefect's errors for a server that does not answer.

What: they are recognised by the text of a RuntimeError, and by the request of an httpx error.
Why: Prefect has no class for them. A command reports them with a hint, and anything else as a failure of its own.
Without it: a stopped server would be reported with a traceback. So no setting leaves it out.
"""

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",), "httpx": ("0.28.1",)},
    changes="recognises a RuntimeError by its text",
    reason="Prefect has no class for the error of an unreachable server",
    upstream="https://github.com/PrefectHQ/prefect/blob/HEAD/src/prefect/client/orchestration/__init__.py",
    without="a stopped server is reported with a traceback",
)
SIGN = "Failed to reach API at "


def is_unreachable(error: Exception, url: str) -> bool:
    """Whether the error means that the Prefect server at `url` does not answer."""
    import httpx

    if isinstance(error, httpx.TransportError):
        try:
            return str(error.request.url).startswith(url)
        except RuntimeError:  # it has no request
            return False
    return isinstance(error, RuntimeError) and str(error).startswith(SIGN)
