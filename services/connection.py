"""Reaching the endpoint from our own commands: its scheme and certificate, and the key to show it."""

import json
import ssl
import urllib.request
from typing import Any

from truecourse import addresses
from truecourse.settings import get_settings, prefect_authorization


def address(port: int | None = None) -> str:
    """The URL of the endpoint that the settings describe."""
    settings = get_settings()
    return addresses.local_url(
        settings.host, port or settings.endpoint_port, "https" if settings.tls_certificate else "http"
    )


def open_url(url: str, body: bytes | None = None, seconds: float = 5) -> Any:
    """The open answer to a GET, or to a POST of JSON. Raises what urllib raises, HTTPError for a refusal."""
    headers = {"content-type": "application/json"} if body is not None else {}
    key = get_settings().api_key.get_secret_value()
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    return addresses.open_url(request, seconds, _trust(url))


def open_api(url: str, method: str, body: Any = None, seconds: float = 10) -> Any:
    """The open answer of a Prefect server's API. Raises what urllib raises."""
    headers = {"content-type": "application/json", **prefect_authorization()}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
    return addresses.open_url(request, seconds)


def _trust(url: str) -> ssl.SSLContext | None:
    """What the system trusts and, where we serve ourselves, the certificate that we serve with."""
    if not url.startswith("https://"):
        return None
    context = ssl.create_default_context()
    if get_settings().tls_certificate:
        context.load_verify_locations(get_settings().tls_certificate)
    return context
