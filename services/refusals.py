"""Refusals of the endpoint's outer layer, in the form of all the others: JSON with what was wrong, and the cure."""

import json

from services.http import Send
from truecourse.errors import TruecourseError

JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class Refused(TruecourseError):
    """A request that is not answered. `reason` is for the meters, `retry_after` in seconds."""

    def __init__(self, reason: str, status: int, what: str, cure: str, retry_after: int | None = None) -> None:
        super().__init__(what, cure=cure)
        self.reason, self.status, self.retry_after = reason, status, retry_after


async def refuse(send: Send, refused: Refused, bare: bool) -> None:
    """`bare`: the headers alone, as HEAD asks for."""
    headers = [(b"content-type", b"application/json")]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="truecourse"'))
    if refused.status == 408:
        headers.append((b"connection", b"close"))
    body = JSON.encode({"error": refused.what, "cure": refused.cure}).encode()
    await answer(send, refused.status, body, headers, bare)


async def answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]], bare: bool) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if bare else body})
