"""Start the endpoint: a verified, unpacked Bento from object storage in a server process."""

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
from truecourse.deployment.bento import load_package
from truecourse.errors import IntegrityError, ModelError, PlatformError
from truecourse.hashing import sha256_file
from truecourse.processes import Child
from truecourse.references import ArtifactRef, ModelVersion, Package
from truecourse.registry import aliases
from truecourse.settings import child_environment, get_settings
from truecourse.storage.format import refuse_newer_format
from truecourse.storage.object_store import open_store
from truecourse.storage.redactions import is_changed

NAME = "the endpoint"
"""Name of the endpoint's process in messages."""


def prepare(problem: str, number: int | None = None) -> Path:
    """Unpack the Bento of a version, by default the champion's, to `<home>/serving/<sha256>`.

    Raises ModelError for a version that was never packaged, IntegrityError for a Bento whose bytes changed."""
    if number is None:
        champion = aliases.current(problem).champion
        if champion is None:
            hint = f"truecourse run lifecycle --problem {problem}"
            raise ModelError("there is no champion to serve", where=f"model {problem}", hint=hint)
        number = champion.version
    package = find_package(problem, number)
    return unpack(package.bento, package.version)


def find_package(problem: str, number: int) -> Package:
    """The package of a version. Raises ModelError for a version that was never packaged."""
    package = load_package(problem, number)
    if package is None:
        hint = f"truecourse run package --problem {problem} --version {number}"
        raise ModelError("the version was never packaged", where=f"version {number} of {problem}", hint=hint)
    return package


def unpack(reference: ArtifactRef, version: ModelVersion) -> Path:
    """Download, verify and unpack a Bento, unless its folder exists; the folder. Raises IntegrityError."""
    place = get_settings().home / "serving"
    folder = place / reference.sha256
    if folder.is_dir():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".unpacking-") as temporary:
        archive, contents = Path(temporary) / "bento", Path(temporary) / "folder"
        open_store().download(reference.key, archive)
        if is_changed(open_store(), reference.key, reference.sha256, sha256_file(archive)):
            hint = f"restore it, or delete it and run `truecourse run package --problem {version.problem}`"
            raise IntegrityError("the Bento's bytes were changed", where=reference.key, hint=hint)
        with tarfile.open(archive, "r:xz") as tar:
            tar.extractall(contents, filter="data")
        try:
            contents.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(contents)
    return folder


def command(folder: Path, port: int) -> list[str]:
    """The command line of the server; inherited_socket.py takes its arguments from index 3 on."""
    address = bind_address(get_settings().host)
    host = "127.0.0.1" if _inherits(address) else address  # an inherited socket is already bound; --host is ignored
    return [sys.executable, "-m", "bentoml", "serve", str(folder), "--host", host, "--port", str(port)]


def environment(folder: Path, port: int, pinned: bool = False) -> dict[str, str]:
    """The environment of a server of this Bento: its own problems and BentoML home, one thread a worker.

    pinned: the server keeps this version when another becomes champion. Servers that share a BentoML home delete each
    other's metrics."""
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
    """Start a server of an unpacked Bento; its output goes to `log`.

    Raises PlatformError if it cannot be started, SettingsError if it would be open to the network without keys, or its
    certificate is not usable, FormatError if a newer Truecourse wrote the storage."""
    refuse_newer_format(open_store())
    require_servable(get_settings())
    arguments, address = command(folder, port), bind_address(get_settings().host)
    if not _inherits(address):
        return processes.start(NAME, arguments, environment(folder, port, pinned), log)
    with listen(address, port) as inherited:
        descriptor = inherited.fileno()
        arguments = [sys.executable, "-m", "services.process.inherited_socket", str(descriptor), *arguments[3:]]
        return processes.start(NAME, arguments, environment(folder, port, pinned), log, inherited=[descriptor])


def _inherits(address: str) -> bool:
    """Whether the server needs an inherited socket: BentoML's own sockets are IPv4 only."""
    return ":" in address


def start_shipper(problem: str, log: Path) -> Child:
    """Start the process that ships the problem's prediction log from this machine. Raises PlatformError."""
    command = [sys.executable, "-m", "services.log.shipper", problem]
    return processes.start("the shipper", command, child_environment(OMP_NUM_THREADS="1"), log)


def wait_ready(server: Child, port: int) -> None:
    """Wait for the server. Raises PlatformError, with the end of its log, if it ends or is not ready in time."""
    server.wait_ready(lambda: is_ready(port))


def is_ready(port: int, url: str | None = None, certificate: str = "") -> bool:
    """Whether the endpoint is ready to predict, by default at the settings' address and certificate.

    `certificate`: used with `url`. Raises PlatformError where another certificate is presented."""
    certificate = certificate if url else get_settings().tls_certificate
    return _status(f"{url or address(port)}/readyz", certificate) == 200


def is_live(port: int) -> bool:
    """Whether the endpoint at the settings' address answers at all. Raises PlatformError as is_ready()."""
    return _status(f"{address(port)}/livez", get_settings().tls_certificate) is not None


def _status(url: str, certificate: str) -> int | None:
    """The status of a GET; None without an answer."""
    try:
        with open_url(url, certificate=certificate) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            what = f"another server answers: {error.reason.args[-1]}"
            raise PlatformError(what, where=url, hint="stop the server that listens there") from None
        return None
    except (ConnectionError, TimeoutError):
        return None
