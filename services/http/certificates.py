"""TLS of the endpoint, with a certificate that is reloaded when its files change."""

import logging
import ssl
import threading
import time
from pathlib import Path

from truecourse.errors import SettingsError
from truecourse.responses import CertificateStatus
from truecourse.tls import read_certificate

log = logging.getLogger("truecourse.serving")
PERIOD = 2.0
"""Seconds between two checks of the files. An unusable pair is reported at the second check: certificate and key are
replaced one after the other."""
Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """`context` serves new connections; open ones keep theirs.

    Raises SettingsError for unusable files. Later, unusable files are logged and reported by status(), and the last
    certificate stays in use."""

    def __init__(self, certificate: str, key: str) -> None:
        self._files = certificate, key
        self._stamp = self._read_stamp()
        self._read = read_certificate(certificate, key)
        self._rejected: Stamp | None = None
        self.error = ""

    @property
    def context(self) -> ssl.SSLContext:
        return self._read.context

    def watch(self) -> None:
        threading.Thread(target=self._run, name="certificates", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            try:
                self.check()
            except Exception:  # without this thread the certificate would expire
                log.exception("reloading the certificate failed")

    def check(self) -> None:
        """Reload the files if they have changed."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        try:
            self._read = read_certificate(*self._files)
        except SettingsError as error:
            if stamp == self._rejected:  # unchanged since the last check
                self._stamp, self.error = stamp, str(error)
                log.error("the new certificate is not usable; the current one expires %s: %s", self.expires, error)
            self._rejected = stamp
            return
        self._stamp, self._rejected, self.error = stamp, None, ""
        log.warning("the certificate was reloaded; it expires %s", self.expires)

    @property
    def expires(self) -> str:
        return self._read.expires.isoformat()

    def _read_stamp(self) -> Stamp:
        return tuple(map(_file_stamp, self._files))

    def status(self) -> CertificateStatus:
        """When the current certificate expires, and why a newer one is not in use."""
        left = (self._read.expires.timestamp() - time.time()) / 86400
        answers = left > 0 and not self.error
        return CertificateStatus(answers=answers, expires=self.expires, error=self.error or None)


def _file_stamp(file: str) -> tuple[int, int, int] | None:
    """Inode, modification time and size, which change when the file, or a link to it, is replaced."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
