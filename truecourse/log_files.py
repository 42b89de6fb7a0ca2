"""Log files of the servers that we start: appended to across restarts, and rotated by size."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from truecourse.settings import get_settings


def open_log(path: Path, name: str) -> tuple[BinaryIO, int]:
    """The log, open for appending behind what was said before, and the offset at which this start begins."""
    rotate(path)
    file = path.open("ab")
    file.write(f"=== {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {name} starts\n".encode())
    file.flush()
    return file, file.tell()


def rotate(path: Path) -> bool:
    """Move a log that is larger than the settings allow to `<name>.1`, and the older ones on by one; whether it was.

    Its writer holds the file open and appends, so the bytes are copied and the file is cut to nothing: a line that is
    written in the moment between the two is lost, as with logrotate's copytruncate."""
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
    aside = path.with_name(f".{path.name}.rotating")
    with path.open("rb") as source, aside.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    aside.replace(_numbered(path, 1))
    os.truncate(path, 0)
    return True


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def tail(path: Path, lines: int, start: int = 0, room: int = 1 << 16) -> str:
    """The last lines that were written from the offset `start` on (all, where the log was rotated since); at most
    `room` bytes are read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - room))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
