"""Messages between a worker and its feature writer: a JSON header and a body, each preceded by its length."""

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

_LENGTHS = struct.Struct(">II")


def write_frame(file: IO[bytes], header: Mapping[str, Any], body: bytes) -> None:
    """Write a message. Raises OSError if the other process has ended."""
    text = json.dumps(header).encode()
    file.write(_LENGTHS.pack(len(text), len(body)) + text + body)
    file.flush()


def read_frame(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read a message; None if the other process has closed its end, also within a message."""
    lengths = file.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, body = (file.read(length) for length in _LENGTHS.unpack(lengths))
    if (len(header), len(body)) != _LENGTHS.unpack(lengths):
        return None
    return json.loads(header), body
