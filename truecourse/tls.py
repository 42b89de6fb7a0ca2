"""Certificates that we serve with, and servers that show one that we know.

A certificate names the host that clients know, which is seldom the address that our own probes ask. They hold the
server to the very certificate that it was given instead: who shows it, and does the handshake, has its key.
"""

import http.client
import re
import ssl
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from truecourse.errors import SettingsError

if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE, KEY = "TRUECOURSE_TLS_CERTIFICATE", "TRUECOURSE_TLS_KEY"


@dataclass(frozen=True)
class ServerCertificate:
    """`context`: does handshakes with it. `expires`: the earliest of its chain."""

    context: ssl.SSLContext
    expires: datetime


def read_certificate(certificate: str, key: str) -> ServerCertificate:
    """A certificate with its chain and key, of PEM files. Raises SettingsError that says what is wrong with them."""
    if not (certificate and key):
        given, lacking = (KEY, CERTIFICATE) if key else (CERTIFICATE, KEY)
        _refuse(lacking, "", f"is not set, but {given} is", "TLS takes a certificate and its key; plain HTTP neither")
    chain = _chain(certificate)
    _check_key(key, _key(key), certificate, chain)
    _check_chain(certificate, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:  # too short a key, for one
        _refuse(CERTIFICATE, certificate, f"cannot be used: {getattr(error, 'reason', None) or error}")
    return ServerCertificate(context, min(one.not_valid_after_utc for one in chain))


def _read(setting: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _refuse(setting, file, f"cannot be read: {error.strerror}", "name a PEM file that this user may read")


def _chain(file: str) -> "list[x509.Certificate]":
    from cryptography import x509

    data = _read(CERTIFICATE, file)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        what = "holds a key and no certificate" if b"PRIVATE KEY" in data else "holds no certificate in PEM"
        _refuse(CERTIFICATE, file, what, "it begins with -----BEGIN CERTIFICATE-----, and is followed by its issuers'")


def _key(file: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(KEY, file)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        _refuse(KEY, file, "is encrypted", "decrypt it: openssl pkey -in KEY -out PLAIN, readable by this user alone")
    except Exception as error:  # ValueError, and what OpenSSL does not support
        what = "holds a certificate and no key" if b"CERTIFICATE" in data else f"holds no private key in PEM: {error}"
        _refuse(KEY, file, what.partition("\n")[0][:160], "it begins with -----BEGIN PRIVATE KEY-----")


def _check_key(file: str, key: Any, certificate: str, chain: "list[x509.Certificate]") -> None:
    found = [place for place, one in enumerate(chain) if one.public_key() == key.public_key()]
    if not found:
        what = f"is not the key of the certificate {certificate} ({_name(chain[0])})"
        _refuse(KEY, file, what, "name the key that the certificate was requested with")
    if found[0]:
        what = f"begins with another certificate ({_name(chain[0])}) than that of the key"
        _refuse(CERTIFICATE, certificate, what, "put the server's certificate first, then its issuers'")


def _check_chain(file: str, chain: "list[x509.Certificate]") -> None:
    now = datetime.now(UTC)
    for place, one in enumerate(chain):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            ended = now > one.not_valid_after_utc
            moment = one.not_valid_after_utc if ended else one.not_valid_before_utc
            what = f"{'expired' if ended else 'is not valid until'} {moment:%Y-%m-%d %H:%M} UTC ({_name(one)})"
            _refuse(CERTIFICATE, file, what, "renew it" if ended else "look at this machine's clock")
        if place + 1 < len(chain):
            _check_issuer(file, one, chain[place + 1])


def _check_issuer(file: str, one: "x509.Certificate", issuer: "x509.Certificate") -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        what = f"holds a wrong chain: {_name(one)} was not issued by the next, {_name(issuer)}"
        hint = "put each certificate's issuer behind it, and nothing else"
        _refuse(CERTIFICATE, file, what, hint)


def _name(certificate: "x509.Certificate") -> str:
    return certificate.subject.rfc4514_string() or "without a subject"


def _refuse(setting: str, file: str, what: str, hint: str = "") -> NoReturn:
    raise SettingsError(what, where=f"{setting}={file}", hint=hint)


class _PinnedConnection(http.client.HTTPSConnection):
    """Held to one certificate, by its bytes, whatever names it has and whoever signed it."""

    pin: bytes

    def connect(self) -> None:
        super().connect()
        shown = self.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
        if shown != self.pin:
            self.close()
            raise ssl.SSLCertVerificationError(f"the server does not show the certificate of {CERTIFICATE}")


def pinned_opener(certificate: str) -> urllib.request.OpenerDirector:
    """Opens https URLs of a server that shows the first certificate of this PEM file, through no proxy. Raises
    SettingsError if there is none."""
    found = re.search(
        rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", _read(CERTIFICATE, certificate), re.S
    )
    if found is None:
        _refuse(CERTIFICATE, certificate, "holds no certificate in PEM")
    pinned = type(
        "Pinned", (_PinnedConnection,), {"pin": ssl.PEM_cert_to_DER_cert(found[0].decode("ascii", "replace"))}
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is checked before anything is sent

    class Handler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(pinned, request, context=context)  # type: ignore[arg-type]

    return urllib.request.build_opener(urllib.request.ProxyHandler({}), Handler())
