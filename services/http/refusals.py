"""Refusals of the endpoint's outer layer, in the form of all the others: JSON with what was wrong, and the hint."""

from dataclasses import dataclass
from functools import cached_property

import orjson

from services.http.exchange import JSON, Reply


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered. `reason` is for the meters, `retry_after` in seconds."""

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
        return Reply(self.status, orjson.dumps({"error": self.what, "hint": self.hint}), tuple(headers))


OVERLOAD = Refusal("overload", 429, "the endpoint has more to do than it can", "try again later", 1)
