"""The connection to the feature writer: answers by number, and a writer that ends is replaced."""

import asyncio
import sys

import pytest

from services.push.connection import Answer, FeatureWriter
from tests.conftest import REPOSITORY
from truecourse.errors import PlatformError

ECHO = """
import sys
from services.push.frames import read_frame, write_frame
frames = []
while (frame := read_frame(sys.stdin.buffer)) is not None:
    frames.append(frame)
    if frame[1] == b"end":
        sys.exit(1)
    if len(frames) == 2:
        for header, body in reversed(frames):
            write_frame(sys.stdout.buffer, {"number": header["number"], "status": header["status"]}, body)
        frames.clear()
"""
"""Answers two pushes at a time, the later first, and ends when it is asked to."""


def test_answers_reach_their_pushes_and_a_writer_that_ends_is_replaced() -> None:
    async def send() -> list[Answer | BaseException]:
        found: list[Answer | BaseException] = []
        for bodies in ((b"a" * 1_000_000, b"b"), (b"end",), (b"c", b"d")):
            calls = [writer.push({"status": 200 + place}, body) for place, body in enumerate(bodies)]
            found += await asyncio.gather(*calls, return_exceptions=True)
        return found

    writer = FeatureWriter(REPOSITORY, (sys.executable, "-c", ECHO))
    first, second, ended, *others = asyncio.run(send())
    assert (first, second) == ((200, b"a" * 1_000_000), (201, b"b"))
    assert isinstance(ended, PlatformError)
    assert others == [(200, b"c"), (201, b"d")]
    writer.close()


def test_too_many_waiting_pushes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send() -> list[Answer | BaseException]:
        calls = [writer.push({"status": 200}, body) for body in (b"a" * 20, b"b" * 20, b"c" * 20)]
        return await asyncio.gather(*calls, return_exceptions=True)

    monkeypatch.setattr("services.push.connection.MOST_BYTES", 50)
    writer = FeatureWriter(REPOSITORY, (sys.executable, "-c", ECHO))
    first, second, third = asyncio.run(send())
    assert (first, second) == ((200, b"a" * 20), (200, b"b" * 20))
    assert isinstance(third, PlatformError)
    assert third.what == "too many pushes wait"
    writer.close()
