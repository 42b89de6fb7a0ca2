"""Log files of the servers that Truecourse starts: appended across restarts, rotated by size."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from truecourse.settings import get_settings


def open_log(path: Path, name: str) -> tuple[BinaryIO, int]:
    """Open a log for appending. Return it, and the offset at which the output of this start begins."""
    rotate(path)
    file = path.open("ab")
    file.write(f"=== {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {name} starts\n".encode())
    file.flush()
    return file, file.tell()


def rotate(path: Path) -> bool:
    """Rotate a log that exceeds the size limit to `<name>.1`, and older ones to the next number. Return whether it did.

    The writer keeps the file open, so the bytes are copied and the file is truncated. A line written between the two
    steps is lost, as with logrotate's copytruncate."""
    settings = get_settings()
    try:
        if path.stat().st_size <= settings.server_log_size * (1 << 20):
            return False
    except OSError:
        return False
    for number in range(settings.server_log_files, 1, -1):
        older = _numbered(path, number - 1)
        if older.exists():
            older.replace(_numbered(path, number))
    partial = path.with_name(f".{path.name}.rotating")
    with path.open("rb") as source, partial.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    partial.replace(_numbered(path, 1))
    os.truncate(path, 0)
    return True


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def tail(path: Path, lines: int, start: int = 0, max_bytes: int = 1 << 16) -> str:
    """The last `lines` lines written after the offset `start` (after 0 if the log was rotated since), from at most
    `max_bytes` bytes; empty if the file cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - max_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
