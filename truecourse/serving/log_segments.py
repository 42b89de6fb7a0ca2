"""Segments: the append-only files that records wait in until they are shipped, made to be read after any death.

A spool's folder holds `<stream>.<number>.open`, which its writer holds an flock on and appends to, and
`<stream>.<number>.sealed`, which are complete. A stream is one run of one writer; its segments are numbered from 1,
each begun only when the one before was let go of. Each record is framed by its length and a checksum of both, so that a
torn end, or a flipped byte, is told from a record.
"""

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from truecourse.storage.fsync import sync_file

OPEN, SEALED = "open", "sealed"
REPORT = "shipper.json"
"""Beside the segments, what the shipper leaves word of: {"at": Unix seconds, "error": text, empty if all is well}."""
RECORD_LIMIT = 32 << 20
"""Bytes of a record. A length beyond it is damage."""
_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


def _checksum(payload: bytes) -> int:
    return crc32(payload, crc32(_LENGTH.pack(len(payload))))


def frame_record(payload: bytes) -> bytes:
    """A record as it stands in a segment: 4 bytes of length, 4 of a CRC-32 of both, the payload."""
    return _HEADER.pack(len(payload), _checksum(payload)) + payload


def parse_records(data: bytes) -> tuple[list[bytes], int]:
    """The records up to the first that is not whole, and how many bytes they take: all of `data` if none is damaged."""
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
        """Keep a damaged segment for a person to look at; where it is then."""
        return self.path(SEALED).rename(self.path("damaged"))


def list_segments(folder: Path, state: str) -> list[Segment]:
    """The segments of a state, each stream's by number. None if there is no such folder."""
    return sorted(segment for path in folder.glob(f"*.*.{state}") if (segment := _named(path)) is not None)


def _named(path: Path) -> Segment | None:
    stream, number, _ = path.name.rsplit(".", 2)
    return Segment(path.parent, stream, int(number)) if number.isdecimal() else None


def seal_abandoned(folder: Path) -> int:
    """Seal the open segments whose writer is dead, without what a death tore off their end; how many bytes that was."""
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
        _, whole = parse_records(data)
        if not whole:
            path.unlink()
            return len(data)
        file.truncate(whole)
        os.fsync(file.fileno())
        seal(segment)
        return len(data) - whole


def acquire_lock(descriptor: int) -> bool:
    """Whether the flock on an open file is ours now. The kernel frees it when its holder dies, however it dies."""
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
    """Create the segment and hold it; its file descriptor. Raises OSError, and leaves nothing."""
    segment.folder.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(segment.path(OPEN), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        if acquire_lock(descriptor) and _is_still(segment.path(OPEN), descriptor):
            break
        os.close(descriptor)  # a shipper took the newborn for abandoned, and removed it
    sync_file(segment.folder)
    return descriptor


def seal(segment: Segment) -> None:
    """Declare a segment complete; by whoever holds it, its bytes synced."""
    segment.path(OPEN).rename(segment.path(SEALED))
    sync_file(segment.folder)


@contextmanager
def shipping_lock(folder: Path) -> Iterator[bool]:
    """Whether this is the one process that ships from the folder; until the block ends, or the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "shipping").open("wb") as file:
        yield acquire_lock(file.fileno())


def sizes(folder: Path, states: Iterable[str] = (OPEN, SEALED)) -> list[tuple[int, float]]:
    """Bytes, and time of the last write (Unix seconds), of every segment in one of these states."""
    endings, found = tuple(f".{state}" for state in states), []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # shipped meanwhile
                if entry.name.endswith(endings):
                    status = entry.stat()
                    found.append((status.st_size, status.st_mtime))
    return found
