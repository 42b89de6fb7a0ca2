"""Starlette's stack of middlewares, which BentoML fills with its own.

What: `middleware_stack` of the application is set to the first of our middlewares, once, when the server starts.
Why: BentoML's middlewares create a task and a timer for every request and look for a trace. That costs more than a
refusal, so an endpoint that refuses two of three requests would break down.
Without it: requests that the application answers pass BentoML's middlewares too.
"""

from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"starlette": ("1.10.0",), "bentoml": ("1.4.39",)},
    changes="sets middleware_stack of BentoML's Starlette application to our first middleware",
    reason="BentoML's middlewares cost more than a refusal",
    upstream="https://github.com/Kludex/starlette/blob/HEAD/starlette/applications.py",
    without="requests that the application answers pass BentoML's middlewares too",
)


def enter_at(application: Any, middleware: Any) -> None:
    """Let requests enter the Starlette application at this middleware: those before it are bypassed."""
    if PATCH.is_active():
        application.middleware_stack = middleware
