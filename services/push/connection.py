"""A worker's connection to its feature writer, which is started with the worker and restarted when it has ended."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

from services.push.frames import read_frame, write_frame
from truecourse.errors import PlatformError
from truecourse.settings import child_environment

log = logging.getLogger("truecourse.push")
COMMAND = (sys.executable, "-m", "services.push.writer")
MOST, MOST_BYTES = 256, 64 << 20
"""Most pushes that wait, and most bytes of them; further ones are refused."""
LEAVING = 10.0
"""Seconds that the writer has to finish when the worker ends."""
Answer = tuple[int, bytes]


@dataclass(eq=False)
class _Writer:
    """A writer process. `waiting`: by number, the pushes that it has not answered. `ended`: it answers no more."""

    process: "subprocess.Popen[bytes]"
    requests: IO[bytes]
    replies: IO[bytes]
    waiting: "dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Answer]]]" = field(default_factory=dict)
    ended: bool = False


class FeatureWriter:
    """Sends pushes to the writer process. `source`: the folder of our code. `command`: starts the process."""

    def __init__(self, source: Path, command: Sequence[str] = COMMAND) -> None:
        self._source, self._command = source, command
        self._lock = threading.Lock()
        self._numbers = count()
        self._bytes = 0
        self._pushes = 0
        self._writer: _Writer | None = None

    def start(self) -> None:
        """Start the process, which imports its libraries for some seconds."""
        with self._lock:
            self._running()

    async def push(self, header: Mapping[str, Any], body: bytes) -> Answer:
        """Send a push, and wait for its answer: HTTP status and JSON. The push is written even if the caller gives up.

        Raises PlatformError if too many pushes wait, or if the writer ends before it answers."""
        if self._pushes >= MOST or self._bytes + len(body) > MOST_BYTES:
            raise PlatformError("too many pushes wait", hint="push again, more rows at once")
        self._pushes, self._bytes = self._pushes + 1, self._bytes + len(body)
        try:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Answer] = loop.create_future()
            await asyncio.to_thread(self._send, header, body, loop, answer)
            return await answer
        finally:
            self._pushes, self._bytes = self._pushes - 1, self._bytes - len(body)

    def close(self) -> None:
        """Let the writer finish, and end it."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is None:
            return
        with suppress(OSError):
            writer.requests.close()
        try:
            writer.process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            writer.process.kill()

    def _send(
        self,
        header: Mapping[str, Any],
        body: bytes,
        loop: asyncio.AbstractEventLoop,
        answer: "asyncio.Future[Answer]",
    ) -> None:
        with self._lock:
            writer, number = self._running(), next(self._numbers)
            writer.waiting[number] = loop, answer
            try:
                write_frame(writer.requests, {**header, "number": number}, body)
            except OSError:  # _receive() answers
                writer.process.kill()

    def _running(self) -> _Writer:
        """The writer; a new one if it has ended. Needs the lock."""
        if self._writer is None or self._writer.ended:
            process = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(PYTHONPATH=str(self._source)),
            )
            assert process.stdin is not None
            assert process.stdout is not None
            self._writer = _Writer(process, process.stdin, process.stdout)
            threading.Thread(target=self._receive, args=(self._writer,), name="pushes", daemon=True).start()
        return self._writer

    def _receive(self, writer: _Writer) -> None:
        """Pass answers on until the writer ends. The pushes that it then leaves fail."""
        while (frame := read_frame(writer.replies)) is not None:
            header, body = frame
            loop, answer = writer.waiting.pop(header["number"])
            _call(loop, _set_result, answer, (header["status"], body))
        writer.process.wait()
        writer.replies.close()
        with suppress(OSError):  # what was not sent cannot be
            writer.requests.close()
        with self._lock:
            writer.ended = True
            left = list(writer.waiting.values())
        for loop, answer in left:
            _call(loop, _set_error, answer)


def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the loop is closed: the worker ends
        log.info("a push was answered after the worker's end")


def _set_result(answer: "asyncio.Future[Answer]", result: Answer) -> None:
    if not answer.done():  # its request may have been given up
        answer.set_result(result)


def _set_error(answer: "asyncio.Future[Answer]") -> None:
    if not answer.done():
        answer.set_exception(PlatformError("the feature writer has ended", hint="push again: it counts once"))
