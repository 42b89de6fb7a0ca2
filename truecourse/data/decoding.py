"""Detect the encoding of a text file and decode it to UTF-8."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from truecourse.errors import SourceError

BLOCK = 4 << 20
"""Bytes per read."""
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_UNDEFINED = frozenset(b"\x81\x8d\x8f\x90\x9d")
"""Bytes that Windows-1252 leaves undefined."""


def marked_encoding(path: Path) -> str | None:
    """The encoding given by the file's byte order mark; None if it has none."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def detect_encoding(path: Path) -> str:
    """Detect the encoding of a text file from its byte order mark or all of its bytes: "utf-8", "utf-16", else "cp1252"
    (the usual one of Windows), or "latin-1" if it has bytes that cp1252 leaves undefined."""
    if marked := marked_encoding(path):
        return "utf-8" if marked == "utf-8-sig" else marked
    decoder = codecs.getincrementaldecoder("utf-8")()
    bytes_seen: set[int] = set()
    valid = True
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            bytes_seen.update(block)
            try:
                valid and decoder.decode(block)
            except UnicodeDecodeError:
                valid = False
        try:
            valid and decoder.decode(b"", True)
        except UnicodeDecodeError:
            valid = False
    if valid:
        return "utf-8"
    return "latin-1" if bytes_seen & _UNDEFINED else "cp1252"


def utf8_blocks(path: Path, encoding: str, where: str) -> Iterator[bytes]:
    """Decode a file to blocks of valid UTF-8 that end between characters. A byte order mark is removed; it overrides an
    `encoding` of UTF-8.

    Raises SourceError, with line and byte, for bytes that are invalid in the encoding."""
    name = codecs.lookup(encoding).name
    if name in ("utf-8", "utf-8-sig"):
        name = marked_encoding(path) or "utf-8"
    decoder = codecs.getincrementaldecoder(name)()
    first = True
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeError as error:
                _raise_undecodable(path, name, where, error)
            if text:
                yield text.removeprefix("\ufeff").encode() if first else text.encode()
                first = False
            if not block:
                return


def count_lines(text: bytes) -> int:
    r"""Count line ends: \n, \r\n, or \r alone."""
    codes = np.frombuffer(text, np.uint8)
    count = np.count_nonzero(codes == ord("\n"))
    if b"\r" in text:
        count += text.count(b"\r") - text.count(b"\r\n")
    return int(count)


def _raise_undecodable(path: Path, name: str, where: str, error: UnicodeError) -> NoReturn:
    """Read the file again up to the first invalid byte, and raise SourceError with its line."""
    shown = "utf-8" if name == "utf-8-sig" else name
    hint = "set its encoding"
    if shown == "utf-8":
        hint += ': csv=Csv(encoding="cp1252") is usual on Windows, "latin-1" is an older one'
    decoder = codecs.getincrementaldecoder(name)()
    line, tail = 1, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            try:
                text = decoder.decode(block).encode()
            except UnicodeDecodeError as invalid:
                text = invalid.object[: invalid.start].decode(name, errors="replace").encode()
                tail = (tail + text)[(tail + text).rfind(b"\n") + 1 :]
                line += count_lines(text)
                what = f"line {line} is not {shown}: byte 0x{invalid.object[invalid.start]:02x} at {len(tail)}"
                raise SourceError(what, where=where, hint=hint) from None
            line += count_lines(text)
            tail = (tail + text)[(tail + text).rfind(b"\n") + 1 :]
    raise SourceError(f"line {line} ends in the middle of a character: {error}", where=where, hint=hint) from None
