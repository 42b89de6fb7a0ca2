"""Unusable certificates are reported before anything starts; own probes pin the server's certificate."""

import asyncio
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.http.certificates import Certificates
from services.process import endpoint_process
from services.process.client_url import open_url
from tests.echo_server import SERVED, echo_server
from tests.tls_certificates import Certificate, make_certificate
from truecourse.client import AsyncClient, Client, encode
from truecourse.errors import PlatformError, SettingsError
from truecourse.tls import read_certificate

ROOT = make_certificate("root")
MIDDLE = make_certificate("middle", ROOT)
LEAF = make_certificate("endpoint.example", MIDDLE)
OTHER = make_certificate("other.example")
Files = tuple[bytes, bytes]
PEM = LEAF.pem
WRONG: dict[str, tuple[Files, str, str]] = {
    "another's key": ((PEM, OTHER.key_pem()), "KEY", "is not the key of the certificate"),
    "encrypted": ((PEM, LEAF.key_pem(b"secret")), "KEY", "is encrypted"),
    "exchanged": ((LEAF.key_pem(), PEM), "CERTIFICATE", "holds a key and no certificate"),
    "no key": ((PEM, PEM), "KEY", "holds a certificate and no key"),
    "junk": ((b"junk", LEAF.key_pem()), "CERTIFICATE", "holds no certificate in PEM"),
    "junk for a key": ((PEM, b"junk"), "KEY", "holds no private key in PEM"),
    "empty": ((PEM, b""), "KEY", "holds no private key in PEM"),
    "cut off": ((PEM[:200], LEAF.key_pem()), "CERTIFICATE", "holds no certificate in PEM"),
    "wrong chain": ((PEM + ROOT.pem, LEAF.key_pem()), "CERTIFICATE", "was not issued by the next"),
    "wrong order": ((MIDDLE.pem + PEM, LEAF.key_pem()), "CERTIFICATE", "does not belong to the key"),
    "foreign root": ((PEM + MIDDLE.pem + OTHER.pem, LEAF.key_pem()), "CERTIFICATE", "was not issued by the next"),
}
OVER = {"expired": ((-9.0, -1.0), "expired"), "early": ((1.0, 9.0), "is not valid until")}


def write_files(folder: Path, files: Files) -> tuple[str, str]:
    names = folder / "certificate.pem", folder / "key.pem"
    for name, data in zip(names, files, strict=True):
        name.write_bytes(data)
    return str(names[0]), str(names[1])


@pytest.mark.parametrize("kind", WRONG)
def test_faults_are_reported_before_anything_starts(
    kind: str, tmp_path: Path, home: Path, configure: Callable[..., None]
) -> None:
    files, setting, what = WRONG[kind]
    certificate, key = write_files(tmp_path, files)
    configure(tls_certificate=certificate, tls_key=key)
    with pytest.raises(SettingsError, match=what) as refused:
        endpoint_process.start(tmp_path / "no bento", 1, tmp_path / "log")
    assert refused.value.where.startswith(f"TRUECOURSE_TLS_{setting}={tmp_path}")
    assert refused.value.hint or kind == "cut off"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", OVER)
def test_the_certificate_and_its_issuers_must_be_valid_now(kind: str, which: int, tmp_path: Path) -> None:
    days, what = OVER[kind]
    issuer = make_certificate("issuer", days=days if which else (-1, 1))
    leaf = make_certificate("endpoint.example", issuer, days=(-1, 1) if which else days)
    with pytest.raises(SettingsError, match=what):
        read_certificate(*map(str, leaf.write(tmp_path, issuer)))


def test_missing_files_and_incomplete_settings_are_reported(tmp_path: Path) -> None:
    certificate, key = map(str, LEAF.write(tmp_path))
    for files, setting, what in (
        ((certificate, ""), "KEY", "is not set"),
        (("", key), "CERTIFICATE", "is not set"),
        ((f"{certificate}x", key), "CERTIFICATE", "No such file"),
        ((certificate, str(tmp_path)), "KEY", "Is a directory"),
    ):
        with pytest.raises(SettingsError, match=what) as refused:
            read_certificate(*files)
        assert f"TRUECOURSE_TLS_{setting}" in refused.value.where


@pytest.mark.parametrize("chain", [(), (MIDDLE,), (MIDDLE, ROOT)])
def test_complete_and_partial_chains_are_accepted(chain: tuple[Certificate, ...], tmp_path: Path) -> None:
    assert read_certificate(*map(str, LEAF.write(tmp_path, *chain))).expires > datetime.now(UTC)


@pytest.mark.parametrize("served", SERVED)
def test_probes_pin_the_servers_certificate(tmp_path: Path, configure: Callable[..., None], served: str) -> None:
    certificate, key = map(str, LEAF.write(tmp_path / "ours", MIDDLE))
    other, _ = map(str, OTHER.write(tmp_path / "other"))
    with echo_server(served, certificates=Certificates(certificate, key)) as server:
        url = f"https://127.0.0.1:{server.port}"
        configure(tls_certificate=certificate, tls_key=key, endpoint_port=server.port)
        assert endpoint_process.is_ready(server.port)
        assert endpoint_process.is_ready(1, url, certificate)
        with pytest.raises(PlatformError, match="another server answers"):
            endpoint_process.is_ready(1, url, other)
        with pytest.raises(urllib.error.URLError):
            open_url(url)
        with Client(url, pin=certificate) as client:
            assert client.post("predict") == {"length": len(encode([]))}
        for refused in (Client(url, pin=other), Client(url), Client(url, certificate=certificate)):
            with refused as client, pytest.raises(PlatformError, match=r"does not answer.*certificate"):
                client.about()
        assert asyncio.run(post_asynchronously(url, certificate)) == {"length": len(encode([]))}
        with pytest.raises(PlatformError, match="does not present the certificate"):
            asyncio.run(post_asynchronously(url, other))
    assert not endpoint_process.is_ready(server.port), "nobody listens"


@pytest.mark.parametrize("served", SERVED)
def test_a_client_trusts_the_issuers_of_its_file(tmp_path: Path, home: Path, served: str) -> None:
    certificate, key = map(str, make_certificate("localhost", MIDDLE).write(tmp_path / "ours", MIDDLE))
    root, _ = map(str, ROOT.write(tmp_path / "root"))
    with echo_server(served, certificates=Certificates(certificate, key)) as server:
        with Client(f"https://localhost:{server.port}", certificate=root) as client:
            assert client.post("predict") == {"length": len(encode([]))}
        by_address = Client(f"https://127.0.0.1:{server.port}", certificate=root)
        with by_address as client, pytest.raises(PlatformError, match=r"does not answer.*certificate"):
            client.post("predict")


async def post_asynchronously(url: str, pin: str) -> dict[str, Any]:
    async with AsyncClient(url, pin=pin) as client:
        return await client.post("predict")


def test_a_replaced_symlink_is_a_change(tmp_path: Path) -> None:
    """Kubernetes replaces the files of a secret in this way."""
    for name in ("first", "second"):
        make_certificate(f"{name}.example").write(tmp_path / name)
    link = tmp_path / "now"
    link.symlink_to(tmp_path / "first")
    certificates = Certificates(str(link / "certificate.pem"), str(link / "key.pem"))
    before = certificates.context
    certificates.check()
    assert certificates.context is before
    (tmp_path / "new").symlink_to(tmp_path / "second")
    (tmp_path / "new").replace(link)
    certificates.check()
    assert certificates.context is not before
