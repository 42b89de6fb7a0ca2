"""TLS certificates of our servers, and clients that pin them.

A certificate names the public host, and our own probes connect to another address. They therefore pin the server's
certificate: a server that presents it and completes the handshake has its key.
"""

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
    """A certificate ready to serve with. `context`: for handshakes. `expires`: the earliest expiry in its chain."""

    context: ssl.SSLContext
    expires: datetime


def read_certificate(certificate: str, key: str) -> ServerCertificate:
    """Read and check a certificate chain and its key from PEM files. Raises SettingsError with the fault."""
    if not (certificate and key):
        given, lacking = (KEY, CERTIFICATE) if key else (CERTIFICATE, KEY)
        _refuse(lacking, "", f"is not set, but {given} is", "set both for TLS, or neither for plain HTTP")
    chain = _chain(certificate)
    _check_key(key, _key(key), certificate, chain)
    _check_chain(certificate, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:  # for example, the key is too short
        _refuse(CERTIFICATE, certificate, f"cannot be used: {getattr(error, 'reason', None) or error}")
    return ServerCertificate(context, min(one.not_valid_after_utc for one in chain))


def _read(setting: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _refuse(setting, file, f"cannot be read: {error.strerror}", "set it to a readable PEM file")


def _chain(file: str) -> "list[x509.Certificate]":
    from cryptography import x509

    data = _read(CERTIFICATE, file)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        what = "holds a key and no certificate" if b"PRIVATE KEY" in data else "holds no certificate in PEM"
        _refuse(
            CERTIFICATE, file, what, "it must begin with -----BEGIN CERTIFICATE-----; its issuers' certificates follow"
        )


def _key(file: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(KEY, file)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        _refuse(
            KEY, file, "is encrypted", "decrypt it (openssl pkey -in KEY -out PLAIN), and let only this user read it"
        )
    except Exception as error:  # ValueError, and what OpenSSL does not support
        what = "holds a certificate and no key" if b"CERTIFICATE" in data else f"holds no private key in PEM: {error}"
        _refuse(KEY, file, what.partition("\n")[0][:160], "it must begin with -----BEGIN PRIVATE KEY-----")


def _check_key(file: str, key: Any, certificate: str, chain: "list[x509.Certificate]") -> None:
    positions = [number for number, one in enumerate(chain) if one.public_key() == key.public_key()]
    if not positions:
        what = f"is not the key of the certificate {certificate} ({_name(chain[0])})"
        _refuse(KEY, file, what, "set it to the certificate's own key")
    if positions[0]:
        what = f"begins with a certificate ({_name(chain[0])}) that does not belong to the key"
        _refuse(CERTIFICATE, certificate, what, "put the server's certificate first, then its issuers'")


def _check_chain(file: str, chain: "list[x509.Certificate]") -> None:
    now = datetime.now(UTC)
    for number, one in enumerate(chain):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            ended = now > one.not_valid_after_utc
            moment = one.not_valid_after_utc if ended else one.not_valid_before_utc
            what = f"{'expired' if ended else 'is not valid until'} {moment:%Y-%m-%d %H:%M} UTC ({_name(one)})"
            _refuse(CERTIFICATE, file, what, "renew it" if ended else "check this machine's clock")
        if number + 1 < len(chain):
            _check_issuer(file, one, chain[number + 1])


def _check_issuer(file: str, one: "x509.Certificate", issuer: "x509.Certificate") -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        what = f"holds an invalid chain: {_name(one)} was not issued by the next certificate, {_name(issuer)}"
        hint = "put each certificate's issuer directly after it, and nothing else"
        _refuse(CERTIFICATE, file, what, hint)


def _name(certificate: "x509.Certificate") -> str:
    return certificate.subject.rfc4514_string() or "without a subject"


def _refuse(setting: str, file: str, what: str, hint: str = "") -> NoReturn:
    raise SettingsError(what, where=f"{setting}={file}", hint=hint)


def pinned_context(certificate: str) -> ssl.SSLContext:
    """Create a TLS context for clients that accepts the first certificate of a PEM file, whatever it names, and no
    other. Raises SettingsError if the file holds none."""
    data = _read(CERTIFICATE, certificate)
    first = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", data, re.S)
    if first is None:
        _refuse(CERTIFICATE, certificate, "holds no certificate in PEM")
    pin = ssl.PEM_cert_to_DER_cert(first[0].decode("ascii", "replace"))

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _require_pin(self, pin)

    class PinnedObject(ssl.SSLObject):  # of asynchronous clients
        def do_handshake(self) -> None:
            super().do_handshake()
            _require_pin(self, pin)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is checked before anything is sent
    context.sslsocket_class, context.sslobject_class = PinnedSocket, PinnedObject
    return context


def _require_pin(connection: ssl.SSLSocket | ssl.SSLObject, pin: bytes) -> None:
    if connection.getpeercert(binary_form=True) != pin:
        raise ssl.SSLCertVerificationError(f"the server does not present the certificate of {CERTIFICATE}")


def pinned_opener(certificate: str) -> urllib.request.OpenerDirector:
    """Create an opener for https URLs that pins a certificate, as pinned_context() does, and bypasses proxies."""
    handler = urllib.request.HTTPSHandler(context=pinned_context(certificate))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
