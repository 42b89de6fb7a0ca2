"""Segments: crash-safe append-only files that hold records until they are shipped.

A spool folder holds `<stream>.<number>.open`, which a writer has locked (flock) and appends to, and
`<stream>.<number>.sealed`, which are complete. A stream is one run of one writer. Its segments are numbered from 1; a
writer starts one only after it released the previous one. Each record has a header with its length and a checksum, so
that a truncated end or a flipped byte is detected.
"""

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from truecourse.storage.fsync import sync_descriptor, sync_file

OPEN, SEALED = "open", "sealed"
REPORT = "shipper.json"
"""The shipper's report, in the spool folder: {"at": Unix seconds, "error": text, empty without an error}."""
RECORD_LIMIT = 32 << 20
"""Maximum bytes of a record. A larger length means damage."""
_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


def _checksum(payload: bytes) -> int:
    return crc32(payload, crc32(_LENGTH.pack(len(payload))))


def frame_record(payload: bytes) -> bytes:
    """Add a record's header: 4 bytes of length, 4 bytes CRC-32 of length and payload."""
    return _HEADER.pack(len(payload), _checksum(payload)) + payload


def parse_records(data: bytes) -> tuple[list[bytes], int]:
    """Parse records up to the first incomplete or damaged one; also returns their total bytes."""
    records, place = [], 0
    while place + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, place)
        end = place + _HEADER.size + length
        payload = data[place + _HEADER.size : end]
        if not 0 < length <= RECORD_LIMIT or end > len(data) or _checksum(payload) != checksum:
            break
        records.append(payload)
        place = end
    return records, place


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a spool."""

    folder: Path
    stream: str
    number: int

    def path(self, state: str) -> Path:
        return self.folder / f"{self.stream}.{self.number:09d}.{state}"

    def remove(self) -> None:
        self.path(SEALED).unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename a damaged segment, to keep it for inspection; returns its new path."""
        return self.path(SEALED).rename(self.path("damaged"))


def list_segments(folder: Path, state: str) -> list[Segment]:
    """List the segments in a state, sorted by stream and number; empty if the folder does not exist."""
    return sorted(segment for path in folder.glob(f"*.*.{state}") if (segment := _named(path)) is not None)


def _named(path: Path) -> Segment | None:
    stream, number, _ = path.name.rsplit(".", 2)
    return Segment(path.parent, stream, int(number)) if number.isdecimal() else None


def seal_abandoned(folder: Path) -> int:
    """Seal the open segments of dead writers, without an incomplete record at their end; returns the bytes removed."""
    return sum(_seal_if_abandoned(segment) for segment in list_segments(folder, OPEN))


def _seal_if_abandoned(segment: Segment) -> int:
    path = segment.path(OPEN)
    try:
        file = path.open("r+b")
    except FileNotFoundError:  # sealed by its writer meanwhile
        return 0
    with file:
        if not acquire_lock(file.fileno()) or not _is_still(path, file.fileno()):
            return 0
        data = file.read()
        _, complete = parse_records(data)
        if not complete:
            path.unlink()
            return len(data)
        file.truncate(complete)
        sync_descriptor(file.fileno())
        seal(segment)
        return len(data) - complete


def acquire_lock(descriptor: int) -> bool:
    """Try to lock an open file (flock); returns whether it worked. The kernel releases the lock of a dead process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def create_segment(segment: Segment) -> int:
    """Create and lock a segment; returns its file descriptor. Raises OSError, and then leaves no file."""
    segment.folder.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(segment.path(OPEN), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        if acquire_lock(descriptor) and _is_still(segment.path(OPEN), descriptor):
            break
        os.close(descriptor)  # a shipper removed it before it was locked
    sync_file(segment.folder)
    return descriptor


def seal(segment: Segment) -> None:
    """Mark a segment as complete. The caller holds its lock and has synced its bytes."""
    segment.path(OPEN).rename(segment.path(SEALED))
    sync_file(segment.folder)


@contextmanager
def shipping_lock(folder: Path) -> Iterator[bool]:
    """Yield whether this process is the only shipper of the folder, until the block or the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "shipping").open("wb") as file:
        yield acquire_lock(file.fileno())


def sizes(folder: Path, states: Iterable[str] = (OPEN, SEALED)) -> list[tuple[int, float]]:
    """Return bytes and last write time (Unix seconds) of every segment in one of these states."""
    endings, found = tuple(f".{state}" for state in states), []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # shipped meanwhile
                if entry.name.endswith(endings):
                    status = entry.stat()
                    found.append((status.st_size, status.st_mtime))
    return found
