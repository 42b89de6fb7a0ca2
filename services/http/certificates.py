"""The endpoint's TLS: handshakes with a certificate that is read again when its files change."""

import asyncio
import logging
import ssl
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from truecourse.errors import SettingsError
from truecourse.tls import read_certificate

log = logging.getLogger("truecourse.serving")
PERIOD = 2.0
"""Seconds between two looks at the files. One that is not usable is named at the second: a certificate and its key are
replaced one after the other."""
Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """`context` does the handshakes of connections that are accepted from now on; those before keep theirs.

    Raises SettingsError for files that are not usable; later, such files are named in the log and by status(), and the
    certificate before them stays."""

    def __init__(self, certificate: str, key: str) -> None:
        self._files = certificate, key
        self._stamp = self._look()
        self._read = read_certificate(certificate, key)
        self._wrong: Stamp | None = None
        self.error = ""

    @property
    def context(self) -> ssl.SSLContext:
        return self._read.context

    def watch(self) -> None:
        threading.Thread(target=self._forever, name="certificates", daemon=True).start()

    def _forever(self) -> None:
        while True:
            time.sleep(PERIOD)
            try:
                self.check()
            except Exception:  # a thread that ends would leave the certificate to expire
                log.exception("reading the certificate again failed")

    def check(self) -> None:
        """Read the files again if they have changed."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        try:
            self._read = read_certificate(*self._files)
        except SettingsError as error:
            if stamp == self._wrong:  # they have come to rest
                self._stamp, self.error = stamp, str(error)
                log.error("the new certificate is not usable, the one before stays until %s: %s", self.expires, error)
            self._wrong = stamp
            return
        self._stamp, self._wrong, self.error = stamp, None, ""
        log.warning("the certificate was read again; it expires %s", self.expires)

    @property
    def expires(self) -> str:
        return self._read.expires.isoformat()

    def _look(self) -> Stamp:
        return tuple(map(_stamped, self._files))

    def status(self) -> dict[str, Any]:
        """When the certificate in use expires, and why a newer one is not in use."""
        left = (self._read.expires.timestamp() - time.time()) / 86400
        return {"answers": left > 0 and not self.error, "expires": self.expires, "error": self.error or None}


def _stamped(file: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced, or the link to it is."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def start_tls(protocol: Any, transport: asyncio.Transport, context: ssl.SSLContext, seconds: float) -> None:
    """Do TLS on an accepted connection: `protocol` is made a connection of once the handshake is done, and told of the
    end (`connection_ended`) in any case. A handshake that takes longer than so many seconds is given up."""
    options = {"server_side": True, "ssl_handshake_timeout": seconds}
    made = _kind(isinstance(protocol.loop, asyncio.BaseEventLoop))(protocol.loop, protocol, context, None, **options)
    made.ended = protocol.connection_ended
    transport.set_protocol(made)
    made.connection_made(transport)


@cache
def _kind(of_asyncio: bool) -> Any:
    """The loop's own protocol of TLS: uvloop's works with uvloop's transports alone."""
    base: Any = import_module("asyncio.sslproto" if of_asyncio else "uvloop.loop").SSLProtocol

    class Encrypted(base):  # type: ignore[misc]
        ended: Any

        def connection_lost(self, exc: BaseException | None) -> None:
            self.ended()
            super().connection_lost(exc)

    return Encrypted
