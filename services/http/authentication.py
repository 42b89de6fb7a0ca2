"""Authentication and authorization: an API key in the request's headers, and its scopes."""

import hmac
import time
from collections.abc import Iterable

from services.http import swagger_ui
from services.http.exchange import FEATURES
from services.http.peers import parse_networks
from truecourse.addresses import is_loopback
from truecourse.errors import PlatformError, RequestError, SettingsError
from truecourse.hashing import sha256
from truecourse.serving import api_keys
from truecourse.serving.api_keys import ApiKey
from truecourse.settings import Settings, is_container
from truecourse.tls import read_certificate

Headers = Iterable[tuple[bytes, bytes]]
OPEN = frozenset({"/livez", "/readyz"})
"""Paths of a cluster's probes, which send no key; they reveal only whether the worker is up."""
SCOPES = {
    "/predict": "predict", "/explain": "explain", FEATURES: "features",
    "/metrics": "admin", "/healthz": "admin", "/model": "admin",
}  # fmt: skip
"""The scope that a route requires; other paths accept any valid key."""
_MAX_LENGTH = 128
_HINT = "send a key as `Authorization: Bearer KEY`; create one with `truecourse key create`"


class Keyring:
    """Keys by id. A lookup takes as long for a wrong secret as for the right one (constant-time comparison)."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def holder(self, text: str, now: float) -> ApiKey | None:
        """The key with this text, if it is valid at `now` (seconds since 1970)."""
        digest = sha256(text.encode(errors="surrogatepass"))
        key = self._keys.get(text[3:11])
        matches = hmac.compare_digest(digest, key.sha256 if key else "0" * 64)
        if key is None or not matches or (key.expires is not None and key.expires.timestamp() <= now):
            return None
        return key


class Access:
    """Authenticates requests. Where keys are required, every request is refused until the keys were read."""

    def __init__(self, settings: Settings) -> None:
        self.requires_keys = settings.authentication == "keys"
        self.is_open = self.requires_keys or settings.allow_anonymous
        """Whether requests of other machines are answered."""
        self._keyring: Keyring | None = None
        self._number = -1

    def refresh(self) -> None:
        """Read the current keys. Raises StorageError; the last ones stay valid until they expire."""
        newest = api_keys.current()
        if newest.number != self._number:
            self._keyring, self._number = Keyring(newest.keys), newest.number

    def holder(self, path: str, headers: Headers) -> ApiKey | None:
        """The key of a request; None where no keys are required.

        Raises RequestError with status 401 without a valid key and 403 without the scope; PlatformError until the keys
        were read."""
        if not self.requires_keys or path in swagger_ui.PATHS:
            return None
        text = _read_key(headers)
        if self._keyring is None:
            raise PlatformError("the keys cannot be read yet", hint="try again")
        key = self._keyring.holder(text, time.time())
        if key is None:
            raise RequestError("the key is invalid or expired", status=401, hint=_HINT)
        scope = SCOPES.get(path)
        if scope is not None and scope not in key.scopes:
            raise RequestError(f"the key lacks the scope {scope}", status=403, hint="use a key with that scope")
        return key


def _read_key(headers: Headers) -> str:
    """Read the key from the headers. Raises RequestError (401) unless there is exactly one, in a valid form."""
    keys = []
    for name, value in headers:
        if name == b"x-api-key":
            keys.append(value)
        elif name == b"authorization":
            kind, _, rest = value.partition(b" ")
            keys.append(rest.strip() if kind.lower() == b"bearer" else b"")
    if len(keys) != 1 or not keys[0] or len(keys[0]) > _MAX_LENGTH or not keys[0].isascii():
        what = "the request has no API key" if not keys else "the request needs exactly one API key"
        raise RequestError(what, status=401, hint=_HINT)
    return keys[0].decode("ascii")


def require_keys_beyond_loopback(settings: Settings) -> None:
    """Raise SettingsError if other machines could send requests without a key."""
    if settings.authentication == "keys" or settings.allow_anonymous:
        return
    if is_container() or not is_loopback(settings.host):
        raise SettingsError(
            "an endpoint that other machines can reach requires keys",
            where="the container" if is_container() else f"TRUECOURSE_HOST={settings.host}",
            hint="set TRUECOURSE_AUTHENTICATION=keys, and create one with `truecourse key create`;"
            " to answer everybody, set TRUECOURSE_ALLOW_ANONYMOUS=true",
        )


def require_servable(settings: Settings) -> None:
    """Check the settings of an endpoint: keys, trusted proxies and certificate. Raises SettingsError."""
    require_keys_beyond_loopback(settings)
    parse_networks(settings.trusted_proxies)
    if settings.tls_certificate or settings.tls_key:
        read_certificate(settings.tls_certificate, settings.tls_key)


def require_safe(settings: Settings) -> None:
    """Exit the process if an endpoint must not be served with these settings."""
    try:
        require_servable(settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
