"""Client of a Prefect server's REST API. Importing Prefect itself takes seconds."""

import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from truecourse import addresses
from truecourse.errors import PlatformError
from truecourse.settings import prefect_authorization

PAGE = 200
"""The largest page that Prefect returns."""
TRIES = 5
"""Prefect answers 503 while its SQLite database is busy."""
LONGEST = 2.0
"""The longest pause between two tries, in seconds."""


class PrefectClient:
    """`api`: the server's URL, which ends with /api. `seconds`: the time-out of one try. `pause`: seconds before the
    second try at a busy server; each further pause is twice as long."""

    def __init__(self, api: str, seconds: float = 30, pause: float = 0.2) -> None:
        self._api = api.rstrip("/")
        self._seconds = seconds
        self._wait = wait_exponential(pause, max=LONGEST)

    def request(self, method: str, path: str, body: Any = None, *, absent: bool = False) -> Any:
        """Send a request; the response's JSON, or None for an empty response. `absent`: return None for status 404.

        Raises PlatformError where the server does not answer or refuses."""
        try:
            return self._send(method, path, body)
        except urllib.error.HTTPError as error:
            if absent and error.code == HTTPStatus.NOT_FOUND:
                return None
            text = error.read()[:300].decode(errors="replace")
            what = f"the Prefect server answers {method} {path} with {error.code}: {text}"
            raise PlatformError(what, where=self._api) from None
        except (OSError, ValueError) as error:
            what = f"the Prefect server does not answer: {getattr(error, 'reason', error)}"
            hint = "start `truecourse up`; see its parts in `truecourse status`"
            raise PlatformError(what, where=self._api, hint=hint) from None

    def all(self, path: str) -> list[Any]:
        """All items of a filter endpoint without conditions, over all pages."""
        found: list[Any] = []
        while page := self.request("POST", path, {"limit": PAGE, "offset": len(found)}):
            found += page
        return found

    def _send(self, method: str, path: str, body: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(_is_busy),
            wait=self._wait,
            stop=stop_after_attempt(TRIES),
            before_sleep=_close,
            reraise=True,
        )
        return retrying(self._send_once, method, path, body)

    def _send_once(self, method: str, path: str, body: Any) -> Any:
        with self._open(method, path, body) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def _open(self, method: str, path: str, body: Any) -> Any:
        headers = {"content-type": "application/json", **prefect_authorization()}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._api}{path}", data, headers, method=method)  # noqa: S310
        return addresses.open_url(request, self._seconds)


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.SERVICE_UNAVAILABLE


def _close(state: RetryCallState) -> None:
    """Close the connection of a try that failed."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, urllib.error.HTTPError):
        error.close()
