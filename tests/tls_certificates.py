"""Certificates for tests: with or without a chain, valid or expired."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Certificate:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes = b"") -> bytes:
        hidden: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)

    def write(self, folder: Path, *chain: "Certificate") -> tuple[Path, Path]:
        folder.mkdir(exist_ok=True)
        (folder / "certificate.pem").write_bytes(b"".join(one.pem for one in (self, *chain)))
        (folder / "key.pem").write_bytes(self.key_pem())
        return folder / "certificate.pem", folder / "key.pem"


def _usage() -> x509.KeyUsage:
    """What each may sign: requests of a server, and other certificates. Python 3.13 requires that issuers say so."""
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def make_certificate(name: str, issuer: Certificate | None = None, days: tuple[float, float] = (-1, 1)) -> Certificate:
    """Make a certificate for a DNS name, signed by the issuer or self-signed.

    `days`: the start and the end of its validity, in days from now."""
    key, subject = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
    )
    now = datetime.now(UTC)
    signer = issuer or Certificate(None, key)  # type: ignore[arg-type]
    signed = (
        x509.CertificateBuilder().subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        .add_extension(_usage(), critical=True)
        .sign(signer.key, hashes.SHA256())
    )  # fmt: skip
    return Certificate(signed, key)
