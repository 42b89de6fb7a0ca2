"""Refusals of the endpoint's outer layer, in the form of all the others: JSON with what was wrong, and the cure."""

import orjson

from services.exchange import JSON, Reply
from truecourse.errors import TruecourseError


class Refused(TruecourseError):
    """A request that is not answered. `reason` is for the meters, `retry_after` in seconds."""

    def __init__(self, reason: str, status: int, what: str, cure: str, retry_after: int | None = None) -> None:
        super().__init__(what, cure=cure)
        self.reason, self.status, self.retry_after = reason, status, retry_after

    def reply(self) -> Reply:
        headers = list(JSON)
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="truecourse"'))
        if self.status == 408:
            headers.append((b"connection", b"close"))
        return Reply(self.status, orjson.dumps({"error": self.what, "cure": self.cure}), tuple(headers))
