"""What both clients share: the options of a client, and the course of a call with its timeouts, retries and errors."""

import json
import os
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, ValidationError

from truecourse.addresses import is_loopback_name
from truecourse.errors import PlatformError, RequestError, SettingsError
from truecourse.responses import ErrorResponse, HealthResponse
from truecourse.tls import pinned_context
from truecourse.unique_ids import LONGEST_KEY, is_call_key, new_call_key

T = TypeVar("T", bound=BaseModel)
BUSY = frozenset({429, 503})
"""Statuses after which a call is tried again: the endpoint is overloaded, or a service that it needs is unavailable."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds of back-off after the first failed attempt, doubled after each further one, and their maximum."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""Failures of a connection that was closed or reset, as when a worker ends or an idle connection expires."""


@dataclass(frozen=True)
class Options:
    """The options of a client; see Client. Raises SettingsError for invalid ones."""

    url: str
    key: str
    timeout: float
    tries: int
    certificate: str
    pin: str
    connect_timeout: float
    total_timeout: float | None
    connections: int
    idle_seconds: float

    def __post_init__(self) -> None:
        if self.tries < 1 or self.connections < 1:
            raise SettingsError("`tries` and `connections` must be at least 1", where="the client's options")
        if not (self.key.isascii() and self.key.isprintable()):
            raise SettingsError("the key has characters that a header cannot hold", where="the client's options")

    @property
    def seconds(self) -> float:
        """The time of one call with all its attempts."""
        return 2 * self.timeout if self.total_timeout is None else self.total_timeout

    def for_httpx(self) -> dict[str, Any]:
        """Arguments of httpx.Client and httpx.AsyncClient. Proxies of the environment are used only for other machines,
        and not with a pinned certificate."""
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        host = httpx.URL(self.url).host
        return {
            "base_url": self.url,
            "headers": headers,
            "verify": self._trust(),
            "trust_env": not (self.pin or is_loopback_name(host)),
            "limits": httpx.Limits(
                max_connections=self.connections,
                max_keepalive_connections=self.connections,
                keepalive_expiry=self.idle_seconds,
            ),
        }

    def _trust(self) -> ssl.SSLContext:
        if self.pin:
            return pinned_context(self.pin)
        if not self.url.startswith("https://"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; loading the system's certificates takes 20 ms
        context = ssl.create_default_context()
        if self.certificate:
            try:
                context.load_verify_locations(self.certificate)
            except OSError as error:
                what = f"cannot be used: {error.strerror or error}"
                raise SettingsError(what, where=self.certificate, hint="name a PEM file of certificates") from None
        return context


class Reply(NamedTuple):
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Call:
    """One call: the time and the attempts that are left to it. `busy`: statuses after which it is tried again.
    `idempotency_key`: of a call with a body, by default a new one; all attempts have it, so they count once. `has_key`:
    whether the call needs one.

    Raises SettingsError for an invalid key."""

    def __init__(
        self,
        options: Options,
        path: str,
        body: bytes | None,
        busy: frozenset[int] = BUSY,
        idempotency_key: str | None = None,
        has_key: bool = True,
    ) -> None:
        self._options, self._busy = options, busy
        self._deadline = time.monotonic() + options.seconds
        self._tries = options.tries
        self._wait = FIRST_WAIT
        self.is_answered = False
        """Whether the header of a response was received; set by the client."""
        self.method, self.path, self.body = "GET" if body is None else "POST", f"/{path}", body
        needs_key = has_key and body is not None
        self.headers = {"idempotency-key": f'"{_call_key(idempotency_key)}"'} if needs_key else {}

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def timeouts(self) -> httpx.Timeout:
        """The timeouts of the next attempt."""
        options, left = self._options, max(self.seconds_left, 0.001)
        return httpx.Timeout(min(options.timeout, left), connect=min(options.connect_timeout, left), pool=left)

    def require_time(self) -> None:
        """Raise PlatformError if the call has taken too long."""
        if self.seconds_left <= 0:
            raise self.timeout_error()

    def wait_after(self, reply: Reply) -> float | None:
        """Seconds until the next attempt; None if the reply is final."""
        return self._next_wait(_retry_after(reply.headers)) if reply.status in self._busy else None

    def wait_after_failure(self, error: httpx.RequestError) -> float:
        """Seconds until the next attempt. Raises PlatformError if the failure is final."""
        is_resendable = isinstance(error, UNSENT) or (isinstance(error, LOST) and not self.is_answered)
        wait = self._next_wait(0.0) if is_resendable and not _is_refused_by_tls(error) else None
        if wait is None:
            raise _unanswered(self._reason(error), self._options.url) from None
        return wait

    def timeout_error(self) -> PlatformError:
        return _unanswered(f"no complete response within {self._options.seconds:g} s", self._options.url)

    def _next_wait(self, least: float) -> float | None:
        """Seconds to wait, at least `least`, with exponential back-off and jitter; None if no attempt is left, or the
        time is too short for one."""
        self._tries -= 1
        wait = least + random.uniform(self._wait / 2, self._wait)  # noqa: S311
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        return wait if self._tries and wait < self.seconds_left else None

    def _reason(self, error: httpx.RequestError) -> str:
        if isinstance(error, httpx.PoolTimeout):
            return f"all {self._options.connections} connections of this client are in use"
        if isinstance(error, httpx.ConnectTimeout):
            return f"no connection within {self._options.connect_timeout:g} s"
        if self.seconds_left <= 0:
            return f"no complete response within {self._options.seconds:g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no response within {self._options.timeout:g} s"
        return _first_cause(error)


def _call_key(key: str | None) -> str:
    """The key of a call, or a new one. Raises SettingsError if a header cannot hold it."""
    if key is None:
        return new_call_key()
    if not is_call_key(key):
        what = f"must be 1 to {LONGEST_KEY} printable ASCII characters without quotes"
        raise SettingsError(what, where="`idempotency_key`", hint="use a UUID")
    return key


def _unanswered(reason: str, url: str) -> PlatformError:
    return PlatformError(f"the endpoint does not answer: {reason}", where=url, hint="truecourse serve")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and its causes, outermost first; httpx wraps the errors of the socket and of TLS."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _is_refused_by_tls(error: BaseException) -> bool:
    """Whether the other side's certificate or protocol was refused: another attempt would fail alike."""
    return any(isinstance(one, ssl.SSLError) and not isinstance(one, ssl.SSLEOFError) for one in _causes(error))


def _first_cause(error: BaseException) -> str:
    """The operating system's or TLS's message, if there is one."""
    cause = next((one for one in reversed(_causes(error)) if isinstance(one, OSError)), None)
    if cause is None:
        return str(error) or type(error).__name__
    if isinstance(cause, ConnectionError) and cause.errno:  # asyncio's own message lacks the reason
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of the `retry-after` header, which holds a number or a date; 0 if there is none."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def decode(reply: Reply, url: str) -> dict[str, Any]:
    """Decode the JSON object of a successful reply. Raises RequestError or PlatformError for any other."""
    _require_success(reply, url)
    try:
        document = json.loads(reply.body)
    except ValueError as error:
        raise _unexpected(str(error), url) from None
    if not isinstance(document, dict):
        raise _unexpected(f"{type(document).__name__}, not an object", url)
    return document


def parse(reply: Reply, model: type[T], url: str) -> T:
    """Parse a successful reply. Raises RequestError or PlatformError for any other."""
    _require_success(reply, url)
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _unexpected(f"{place}: {first['msg']}" if place else first["msg"], url) from None


def parse_health(reply: Reply, url: str) -> HealthResponse:
    """Parse the reply of /healthz, whose status is 503 if predictions are impossible."""
    if reply.status == 503:
        try:
            return HealthResponse.model_validate_json(reply.body)
        except ValidationError:
            pass  # it was refused
    return parse(reply, HealthResponse, url)


def push_path(area: str, view: str, id: str, table: str) -> str:
    """The path of a push, with its query."""
    query = urlencode({name: value for name, value in (("id", id), ("table", table)) if value})
    return f"features/{quote(area, safe='')}/{quote(view, safe='')}{'?' if query else ''}{query}"


def _require_success(reply: Reply, url: str) -> None:
    if not 200 <= reply.status < 300:
        raise _error_of(reply, url)


def _unexpected(what: str, url: str) -> PlatformError:
    hint = "use the client of the same version as the endpoint"
    return PlatformError(f"unexpected response: {what}", where=url, hint=hint)


def _error_of(reply: Reply, url: str) -> RequestError | PlatformError:
    """The error that a reply describes; a proxy's reply may be no JSON."""
    try:
        found = ErrorResponse.model_validate_json(reply.body)
    except ValidationError:
        text = reply.body[:200].decode(errors="replace").strip()
        found = ErrorResponse(error=f"status {reply.status}{': ' if text else ''}{text}")
    if not 400 <= reply.status < 500:
        return PlatformError(found.error, where=url, hint=found.hint)
    hint = "set TRUECOURSE_API_KEY, or Client(key=...), to a valid key" if reply.status == 401 else found.hint
    return RequestError(
        found.error, status=reply.status, faults=found.faults, count=found.fault_count, where=url, hint=hint
    )
