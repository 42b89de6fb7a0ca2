"""uvicorn's request object, which the fast path answers itself (services/http/fast_path.py).

What: requests that need no application are kept back from `_start_asgi_task`, read from their `RequestResponseCycle`,
and answered on its transport; the cycle is marked as answered.
Why: a task and messages for every request are a fifth of the cost of a one-row prediction.
Without it: TRUECOURSE_FAST_PATH=false hands every request to the ASGI application, under the same limits.
"""

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from truecourse.compat.patch import Patch

__all__ = ["HIGH_WATER_LIMIT", "PATCH", "RequestResponseCycle"]

PATCH = Patch(
    module=__name__,
    checked={"uvicorn": ("0.54.0",)},
    changes="answers a RequestResponseCycle without an ASGI task",
    reason="a task and messages for every request are a fifth of the cost of a one-row prediction",
    upstream="https://github.com/Kludex/uvicorn/blob/HEAD/uvicorn/protocols/http/httptools_impl.py",
    without="every request is answered by the ASGI application",
    setting="TRUECOURSE_FAST_PATH=false",
)
USED = (
    "body", "keep_alive", "more_body", "on_response", "response_complete", "response_started", "scope",
    "waiting_for_100_continue",
)  # fmt: skip
"""Attributes of a RequestResponseCycle that the fast path reads or sets."""
