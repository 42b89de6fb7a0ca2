"""The endpoint and its log shipper as supervised parts, for `up` and `serve`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cli.platform.endpoint import endpoint_url, start_endpoint, start_shipper
from cli.terminal.output import stderr
from services.process import endpoint_process
from services.process.platform_supervisor import Part
from truecourse.addresses import require_free
from truecourse.deployment import endpoints
from truecourse.errors import ModelError, PlatformError, StorageError
from truecourse.log_files import rotate
from truecourse.processes import Child, Leftover, terminate
from truecourse.repeats import Repeats
from truecourse.settings import get_settings
from truecourse.wording import counted


class EndpointParts:
    """`version`: the version to serve; None for the champion. `stack`: closed when serving ends.

    `url`: empty until a model was served."""

    def __init__(self, problem: str, port: int, version: int | None, stack: ExitStack, setting: str = "") -> None:
        self._problem, self._port, self._version = problem, port, version
        self._setting = setting or "TRUECOURSE_ENDPOINT_PORT"
        self._stack = stack
        self._folder: Path | None = None
        self.url = ""

    def endpoint(self) -> Part:
        return Part(
            "endpoint",
            self._start,
            ready=lambda _: endpoint_process.is_ready(self._port),
            live=lambda _: endpoint_process.is_live(self._port),
        )

    def shipper(self) -> Part:
        return Part("shipper", lambda: start_shipper(self._problem), lambda child: child.alive, needs="endpoint")

    def _start(self) -> Child:
        require_free(get_settings().host, self._port, "the endpoint", self._setting)
        self._folder = self._prepare()
        child = start_endpoint(self._folder, self._port, pinned=self._version is not None)
        if not self.url:
            self.url = endpoint_url(self._port)
            self._stack.enter_context(endpoints.announce_endpoint(self._problem, self.url))
        return child

    def _prepare(self) -> Path:
        """Unpack the Bento to serve; if that fails, reuse the last one."""
        try:
            return endpoint_process.prepare(self._problem, self._version)
        except (ModelError, PlatformError, StorageError):
            if self._folder is None or not self._folder.is_dir():
                raise
            return self._folder


def end_leftovers(left: Sequence[Leftover]) -> None:
    """End processes that a killed command left, and print which."""
    if left:
        names = ", ".join(sorted({one.name for one in left}))
        stderr().print(f"ending {counted(len(left), 'process')} that a killed command left running: {names}")
        terminate([one.process for one in left])


@contextmanager
def log_to_stderr(name: str) -> Iterator[None]:
    """Log to stderr and to `logs/<name>.log` while the block lasts."""
    path = get_settings().home / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate(path)
    file, screen, logger = logging.FileHandler(path), logging.StreamHandler(), logging.getLogger("truecourse")
    for handler in (file, screen):
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.addFilter(Repeats())
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, screen):
            logger.removeHandler(handler)
        file.close()
