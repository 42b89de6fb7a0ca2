"""Requests to the endpoint from our own commands: its URL, certificate and API key."""

import urllib.request
from typing import Any

from truecourse import addresses
from truecourse.settings import get_settings
from truecourse.tls import pinned_opener


def address(port: int | None = None) -> str:
    """The URL of the endpoint that the settings describe."""
    settings = get_settings()
    return addresses.local_url(
        settings.host, port or settings.endpoint_port, "https" if settings.tls_certificate else "http"
    )


def open_url(url: str, body: bytes | None = None, seconds: float = 5, certificate: str = "") -> Any:
    """Send a GET, or a POST of JSON, and return the open response.

    `certificate`: PEM file of the certificate that the server must present, whatever names it has; by default the
    system's trust store decides. Raises urllib's errors, HTTPError for a refusal; SettingsError for a certificate that
    cannot be read."""
    headers = {"content-type": "application/json"} if body is not None else {}
    key = get_settings().api_key.get_secret_value()
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    if certificate and url.startswith("https://"):
        return pinned_opener(certificate).open(request, timeout=seconds)
    return addresses.open_url(request, seconds)
