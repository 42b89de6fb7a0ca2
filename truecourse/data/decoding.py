"""The bytes of a text file as UTF-8, whatever its encoding."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from truecourse.errors import SourceError

BLOCK = 4 << 20
"""Bytes read at once."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_UNDEFINED = frozenset(b"\x81\x8d\x8f\x90\x9d")
"""Bytes that Windows-1252 leaves undefined."""


def marked_encoding(path: Path) -> str | None:
    """The encoding that a byte order mark at the file's beginning tells, if there is one."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def detect_encoding(path: Path) -> str:
    """The encoding of a text file, by its byte order mark or by all of its bytes: "utf-8", "utf-16", else "cp1252",
    the usual one of Windows, unless it has bytes which that leaves undefined: then "latin-1"."""
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
    """The file in pieces of valid UTF-8, which end between characters. A byte order mark is left out, and tells the
    encoding where `encoding` is UTF-8.

    Raises SourceError, with line and byte, for bytes that are none of the encoding."""
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
                _undecodable(path, name, where, error)
            if text:
                yield text.removeprefix("\ufeff").encode() if first else text.encode()
                first = False
            if not block:
                return


def count_lines(text: bytes) -> int:
    r"""Line ends: \n, \r\n, or \r alone."""
    signs = np.frombuffer(text, np.uint8)
    count = np.count_nonzero(signs == ord("\n"))
    if b"\r" in text:
        count += text.count(b"\r") - text.count(b"\r\n")
    return int(count)


def _undecodable(path: Path, name: str, where: str, error: UnicodeError) -> NoReturn:
    """Read again up to the first byte that is none of the encoding, to tell its line."""
    shown = "utf-8" if name == "utf-8-sig" else name
    hint = "name its encoding"
    if shown == "utf-8":
        hint += ': csv=Csv(encoding="cp1252") is the usual one of Windows, "latin-1" an older one'
    decoder = codecs.getincrementaldecoder(name)()
    line, tail = 1, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            try:
                text = decoder.decode(block).encode()
            except UnicodeDecodeError as found:
                text = found.object[: found.start].decode(name, errors="replace").encode()
                tail = (tail + text)[(tail + text).rfind(b"\n") + 1 :]
                line += count_lines(text)
                what = f"line {line} is not {shown}: byte 0x{found.object[found.start]:02x} at {len(tail)}"
                raise SourceError(what, where=where, hint=hint) from None
            line += count_lines(text)
            tail = (tail + text)[(tail + text).rfind(b"\n") + 1 :]
    raise SourceError(f"line {line} is cut off amid a character: {error}", where=where, hint=hint) from None
