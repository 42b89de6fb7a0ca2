"""Who may have what of the endpoint: a key in the request's headers, looked up among the keys of object storage."""

import hmac
import time
from collections.abc import Iterable

from services.http import docs
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
"""What a cluster's probes ask, which have no key. It tells nothing but that."""
SCOPES = {"/predict": "predict", "/explain": "explain", "/metrics": "admin", "/healthz": "admin", "/model": "admin"}
"""The scope that a path asks for; any other takes any key."""
_HELD = 128
_HINT = "send a key as `Authorization: Bearer KEY`; `truecourse key create` makes one"


class Keyring:
    """Keys by their ids. Looking one up takes as long for a wrong secret as for the right one."""

    def __init__(self, held: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in held}

    def holder(self, text: str, now: float) -> ApiKey | None:
        """The key whose text this is, if it holds at `now` (seconds since 1970)."""
        digest = sha256(text.encode(errors="surrogatepass"))
        key = self._keys.get(text[3:11])
        right = hmac.compare_digest(digest, key.sha256 if key else "0" * 64)
        if key is None or not right or (key.expires is not None and key.expires.timestamp() <= now):
            return None
        return key


class Access:
    """Lets requests in. Where keys are asked for, and have not been read yet, nobody is."""

    def __init__(self, settings: Settings) -> None:
        self.requires_keys = settings.authentication == "keys"
        self.is_open = self.requires_keys or settings.allow_anonymous
        """Whether other machines are answered at all."""
        self._keyring: Keyring | None = None
        self._number = -1

    def refresh(self) -> None:
        """Read the keys as they stand. Raises StorageError; those read before go on holding until they expire."""
        newest = api_keys.current()
        if newest.number != self._number:
            self._keyring, self._number = Keyring(newest.keys), newest.number

    def holder(self, path: str, headers: Headers) -> ApiKey | None:
        """Whose request this is; None where no keys are asked for.

        Raises RequestError with status 401 without a key that holds, with 403 without the scope; PlatformError while
        the keys cannot be read."""
        if not self.requires_keys or path in docs.PATHS:
            return None
        text = _read_key(headers)
        if self._keyring is None:
            raise PlatformError("the keys cannot be read yet", hint="try again")
        key = self._keyring.holder(text, time.time())
        if key is None:
            raise RequestError("the key does not hold", status=401, hint=_HINT)
        wanted = SCOPES.get(path)
        if wanted is not None and wanted not in key.scopes:
            raise RequestError(f"the key lacks the scope {wanted}", status=403, hint="ask with a key that has it")
        return key


def _read_key(headers: Headers) -> str:
    """The one key that the headers hold. Raises RequestError (401) for none, for several, and for what is no key."""
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value)
        elif name == b"authorization":
            kind, _, rest = value.partition(b" ")
            found.append(rest.strip() if kind.lower() == b"bearer" else b"")
    if len(found) != 1 or not found[0] or len(found[0]) > _HELD or not found[0].isascii():
        what = "there is no key" if not found else "there is not exactly one key"
        raise RequestError(what, status=401, hint=_HINT)
    return found[0].decode("ascii")


def require_keys_beyond_loopback(settings: Settings) -> None:
    """Raises SettingsError where anybody in the network could ask, and nobody would be asked who they are."""
    if settings.authentication == "keys" or settings.allow_anonymous:
        return
    if is_container() or not is_loopback(settings.host):
        raise SettingsError(
            "an endpoint that others can reach asks for keys",
            where="the container" if is_container() else f"TRUECOURSE_HOST={settings.host}",
            hint="set TRUECOURSE_AUTHENTICATION=keys, and make one with `truecourse key create`;"
            " to answer anybody, set TRUECOURSE_ALLOW_ANONYMOUS=true",
        )


def require_servable(settings: Settings) -> None:
    """Raises SettingsError if an endpoint of these settings would be open to the network, or its certificate is not
    usable, or a proxy that it trusts is no address."""
    require_keys_beyond_loopback(settings)
    parse_networks(settings.trusted_proxies)
    if settings.tls_certificate or settings.tls_key:
        read_certificate(settings.tls_certificate, settings.tls_key)


def require_safe(settings: Settings) -> None:
    """End this process unless an endpoint of these settings may be served."""
    try:
        require_servable(settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
