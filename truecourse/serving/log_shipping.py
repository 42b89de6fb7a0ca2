"""Shipping of a spool's segments to the prediction log in object storage, each record exactly once.

A commit records, for each stream, the number of the last segment in it, as a Delta application transaction. Rows and
numbers become visible together. If a shipper dies between its commit and the removal of the segments, the next one
reads the numbers and removes the segments.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from truecourse.errors import TruecourseError
from truecourse.serving import prediction_log
from truecourse.serving.log_segments import (
    OPEN,
    REPORT,
    SEALED,
    Segment,
    list_segments,
    parse_records,
    seal_abandoned,
    shipping_lock,
)
from truecourse.serving.repeated_calls import Appended, append_once
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted

log = logging.getLogger("truecourse.log")
BATCH_BYTES = 32 << 20
"""Approximate bytes of segments per commit."""


@dataclass(frozen=True)
class Shipment:
    """What one call shipped. `records`: predictions. `busy`: another process is shipping, so nothing was shipped.
    `repeated`: records of calls that were sent again, which were dropped or replaced."""

    records: int = 0
    segments: int = 0
    torn_bytes: int = 0
    damaged: tuple[str, ...] = ()
    busy: bool = False
    repeated: int = 0

    @property
    def sentence(self) -> str:
        again = f"; {counted(self.repeated, 'record')} of repeated calls dropped" if self.repeated else ""
        return f"{counted(self.records, 'prediction')} shipped{again}"


def spool_folder(problem: str) -> Path:
    return get_settings().home / "spool" / problem


def damaged_segments(problem: str) -> list[Path]:
    """List the segments that were set aside because they are damaged."""
    return sorted(spool_folder(problem).glob("*.damaged"))


def ship(problem: str, tables: Tables | None = None) -> Shipment:
    """Ship every complete segment and those of dead writers. Raises StorageError, without losing records."""
    folder = spool_folder(problem)
    with shipping_lock(folder) as locked:
        if not locked:
            return Shipment(busy=True)
        try:
            shipment = _ship(problem, folder, tables or Tables())
        except (TruecourseError, OSError) as error:
            _report(folder, f"{type(error).__name__}: {error}")
            raise
        _report(folder, "")
        return shipment


def _ship(problem: str, folder: Path, tables: Tables) -> Shipment:
    torn, segments, name = seal_abandoned(folder), list_segments(folder, SEALED), prediction_log.log_table(problem)
    if gone := tables.remove_torn_commits(
        name
    ):  # its segments still exist: they are removed only after a synced commit
        log.warning("%s of %s incomplete after a power failure; shipping again", ", ".join(gone), name)
    shipped = tables.transactions(name, {segment.stream for segment in segments})
    records = repeated = count = 0
    damaged: list[str] = []
    for batch in _batches(segments, shipped):
        read = {segment: _read(segment) for segment in batch}
        payloads = [payload for found, _ in read.values() for payload in found]
        appended = _append(tables, name, payloads, batch)
        records, repeated = records + appended.records, repeated + appended.repeated
        for segment, (_, complete) in read.items():
            if complete:
                segment.remove()
            else:
                damaged.append(str(segment.set_aside()))
                log.error("%s is damaged: shipped the records before the damage, kept the file", damaged[-1])
        count += len(batch)
    return Shipment(records, count, torn, tuple(damaged), repeated=repeated)


def _append(tables: Tables, name: str, payloads: list[bytes], batch: list[Segment]) -> Appended:
    """Commit the entries of these segments."""
    last = {segment.stream: segment.number for segment in batch}
    about = {"flow": "ship", "segments": len(batch)}
    return append_once(tables, name, prediction_log.entries_table(payloads), about, last)


def _read(segment: Segment) -> tuple[list[bytes], bool]:
    """Read a segment's records, and whether it is undamaged."""
    data = segment.path(SEALED).read_bytes()
    records, place = parse_records(data)
    return records, place == len(data)


def _batches(segments: list[Segment], shipped: Mapping[str, int]) -> Iterator[list[Segment]]:
    """Yield segments to ship in batches of about BATCH_BYTES; remove those already shipped."""
    batch, size, reached = [], 0, dict(shipped)
    for segment in segments:
        before = reached.get(segment.stream, 0)
        if segment.number <= before:
            segment.remove()
            continue
        if _has_earlier_segment(segment, before):
            continue
        reached[segment.stream] = segment.number
        batch.append(segment)
        size += segment.path(SEALED).stat().st_size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _has_earlier_segment(segment: Segment, before: int) -> bool:
    """Return whether an earlier segment, with a number above `before`, still exists.

    Listing a folder while it is written to may miss one. Shipping this segment first would mark it as shipped."""
    earlier = (Segment(segment.folder, segment.stream, number) for number in range(before + 1, segment.number))
    return any(one.path(OPEN).exists() or one.path(SEALED).exists() for one in earlier)


def _report(folder: Path, error: str) -> None:
    """Write the report that the workers' health check reads. Errors are ignored: workers detect a full disk too."""
    with suppress(OSError):
        temporary = folder / f".report-{os.getpid()}"
        temporary.write_text(json.dumps({"at": time.time(), "error": error}))
        temporary.replace(folder / REPORT)
