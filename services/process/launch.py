"""Starting the endpoint: a Bento from object storage, verified and unpacked, in a server process of its own."""

import shutil
import ssl
import sys
import tarfile
import tempfile
import urllib.error
from pathlib import Path

from services.http.authentication import require_servable
from services.process.client_url import address, open_url
from truecourse import processes
from truecourse.addresses import bind_address, listen
from truecourse.deployment.bento import packaged
from truecourse.errors import IntegrityError, ModelError, PlatformError
from truecourse.hashing import sha256_file
from truecourse.processes import Child
from truecourse.references import ArtifactRef, ModelVersion, Package
from truecourse.registry import aliases
from truecourse.settings import child_environment, get_settings
from truecourse.storage.object_store import open_store

NAME = "the endpoint"
"""What its process is called in messages."""


def prepare(problem: str, number: int | None = None) -> Path:
    """The unpacked Bento of a version, by default the champion: `<home>/serving/<sha256>`.

    Raises ModelError for a version that was never packaged, IntegrityError for a Bento whose bytes were changed."""
    if number is None:
        champion = aliases.current(problem).champion
        if champion is None:
            hint = f"truecourse run lifecycle --problem {problem}"
            raise ModelError("there is no champion to serve", where=f"model {problem}", hint=hint)
        number = champion.version
    package = find_package(problem, number)
    return unpack(package.bento, package.version)


def find_package(problem: str, number: int) -> Package:
    """Raises ModelError for a version that was never packaged."""
    package = packaged(problem, number)
    if package is None:
        hint = f"truecourse run package --problem {problem} --version {number}"
        raise ModelError("the version was never packaged", where=f"version {number} of {problem}", hint=hint)
    return package


def unpack(reference: ArtifactRef, version: ModelVersion) -> Path:
    """The folder of a Bento: downloaded, verified and unpacked unless it is there. Raises IntegrityError."""
    place = get_settings().home / "serving"
    folder = place / reference.sha256
    if folder.is_dir():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".unpacking-") as temporary:
        archive, contents = Path(temporary) / "bento", Path(temporary) / "folder"
        open_store().download(reference.key, archive)
        if sha256_file(archive) != reference.sha256:
            hint = f"restore it, or `truecourse run package --problem {version.problem}` after deleting it"
            raise IntegrityError("the Bento's bytes were changed", where=reference.key, hint=hint)
        with tarfile.open(archive, "r:xz") as tar:
            tar.extractall(contents, filter="data")
        try:
            contents.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(contents)
    return folder


def command(folder: Path, port: int) -> list[str]:
    """Its words; where it inherits its socket (services/process/inherited_socket.py), from the fourth on."""
    address = bind_address(get_settings().host)
    host = "127.0.0.1" if _inherits(address) else address  # of a socket that it inherits it is told nothing
    return [sys.executable, "-m", "bentoml", "serve", str(folder), "--host", host, "--port", str(port)]


def environment(folder: Path, port: int, pinned: bool = False) -> dict[str, str]:
    """For a server of this Bento: the problem inside it, one thread a worker, a BentoML home of its own.

    pinned: it goes on serving this version, whoever is made champion.
    Servers that share a home wipe each other's metrics."""
    home = get_settings().home / "serving" / f"bentoml-{port}"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return child_environment(
        TRUECOURSE_PROBLEMS=str(folder / "src" / "problems"),
        TRUECOURSE_ENDPOINT_PORT=str(port),
        TRUECOURSE_FOLLOW=str(get_settings().follow and not pinned).lower(),
        BENTOML_HOME=str(home),
        TMPDIR=str(home / "tmp"),
        OMP_NUM_THREADS="1",
        OMP_WAIT_POLICY="passive",
        PYTHONSAFEPATH="1",
    )


def start(folder: Path, port: int, log: Path, pinned: bool = False) -> Child:
    """A server of an unpacked Bento; its output goes to `log`. Raises PlatformError if it cannot be started,
    SettingsError if it would be open to the network, or its certificate is not usable."""
    require_servable(get_settings())
    words, address = command(folder, port), bind_address(get_settings().host)
    if not _inherits(address):
        return processes.start(NAME, words, environment(folder, port, pinned), log)
    with listen(address, port) as inherited:
        descriptor = inherited.fileno()
        words = [sys.executable, "-m", "services.process.inherited_socket", str(descriptor), *words[3:]]
        return processes.start(NAME, words, environment(folder, port, pinned), log, inherited=[descriptor])


def _inherits(address: str) -> bool:
    """BentoML's own sockets are of IPv4 alone."""
    return ":" in address


def start_shipper(problem: str, log: Path) -> Child:
    """The process that ships what endpoints on this machine log of the problem. Raises PlatformError."""
    command = [sys.executable, "-m", "services.log.shipper", problem]
    return processes.start("the shipper", command, child_environment(OMP_NUM_THREADS="1"), log)


def wait_ready(server: Child, port: int) -> None:
    """Raises PlatformError, with the end of the server's log, if it ends or is not ready in time."""
    server.wait_ready(lambda: is_ready(port))


def is_ready(port: int, url: str | None = None, certificate: str = "") -> bool:
    """Whether the endpoint answers; at `url`, and with that certificate, where it is not the settings' own. Raises
    PlatformError where what listens there shows another certificate."""
    certificate = certificate if url else get_settings().tls_certificate
    try:
        with open_url(f"{url or address(port)}/readyz", certificate=certificate) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError as error:
        if isinstance(reason := getattr(error, "reason", None), ssl.SSLCertVerificationError):
            what = f"something else answers: {reason.args[-1]}"
            raise PlatformError(what, where=url or address(port), hint="stop what listens there") from None
        return False
    except (ConnectionError, TimeoutError):
        return False
