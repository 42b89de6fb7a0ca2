"""Refusals of the endpoint's outer layer: JSON with the error and the hint, as for all errors."""

from dataclasses import dataclass
from functools import cached_property

from services.http.exchange import JSON, Reply
from truecourse.responses import ErrorResponse


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused. `reason`: label of the metric; `retry_after`: seconds."""

    reason: str
    status: int
    what: str
    hint: str
    retry_after: int | None = None

    @cached_property
    def reply(self) -> Reply:
        headers = list(JSON)
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="truecourse"'))
        if self.status == 408:
            headers.append((b"connection", b"close"))
        return Reply(self.status, ErrorResponse(error=self.what, hint=self.hint).to_json(), tuple(headers))


OVERLOAD = Refusal("overload", 429, "the endpoint is overloaded", "try again later", 1)
