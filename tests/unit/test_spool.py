"""The spool accounts for every record: on disk, in memory, or counted as dropped."""

import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.log.spool import Limits, Spool
from tests.log_records import Answers
from truecourse.serving.log_segments import OPEN, REPORT, SEALED, list_segments, parse_records, sizes
from truecourse.serving.prediction_log import encode_entry


def spool(folder: Path, **limits: Any) -> Spool:
    return Spool(folder, encode_entry, Limits(**limits))


def ids(folder: Path) -> list[bytes]:
    """The ids of all records in the folder, in order."""
    found = [segment.path(state) for state in (SEALED, OPEN) for segment in list_segments(folder, state)]
    records = [record for path in sorted(found) for record in parse_records(path.read_bytes())[0]]
    return [answer["prediction_id"].encode() for record in records for answer in json.loads(record)["answers"]]


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """Limit the files of this process to `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_records_are_written_within_the_sync_interval(tmp_path: Path) -> None:
    spooling = spool(tmp_path, sync=0.05)
    spooling.start()
    spooling.put(Answers(("a", "b")))
    deadline = time.monotonic() + 10
    while spooling.status().waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ids(tmp_path) == [b"a", b"b"]
    assert list_segments(tmp_path, OPEN)
    spooling.put(Answers(("c",)))
    spooling.close()
    assert ids(tmp_path) == [b"a", b"b", b"c"]
    assert list_segments(tmp_path, OPEN) == []
    assert spooling.status().written == 3


def test_segments_are_sealed_by_size_and_by_age(tmp_path: Path) -> None:
    spooling = spool(tmp_path, size=1)
    for id in ("a", "b"):
        spooling.put(Answers((id,)))
        spooling.flush()
    assert [segment.number for segment in list_segments(tmp_path, SEALED)] == [1, 2]
    aged = spool(tmp_path / "aged", age=0.0)
    aged.flush()
    assert list_segments(tmp_path / "aged", SEALED) == [], "nothing is sealed where nothing was written"
    aged.put(Answers(("a",)))
    aged.flush()
    assert len(list_segments(tmp_path / "aged", SEALED)) == 1


def test_segments_are_sealed_by_age_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spooling = spool(tmp_path, age=0.05)
    spooling.put(Answers(("a",)))
    spooling.flush()
    yesterday = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: yesterday)
    time.sleep(0.06)
    spooling.flush()
    assert len(list_segments(tmp_path, SEALED)) == 1


def test_two_workers_never_share_a_segment(tmp_path: Path) -> None:
    first, second = spool(tmp_path), spool(tmp_path)
    for spooling in (first, second):
        spooling.put(Answers(("a",)))
        spooling.flush()
    assert len({segment.stream for segment in list_segments(tmp_path, OPEN)}) == 2


@pytest.mark.parametrize("room", [0, 1, 1500])
def test_a_full_disk_loses_nothing_within_the_memory_limit(tmp_path: Path, room: int) -> None:
    """With little space left, a write ends in the middle of a record."""
    spooling = spool(tmp_path)
    spooling.put(Answers(("before",)))
    spooling.flush()
    expected = [b"before"] + [f"{i}".encode() for i in range(20)]
    with full_disk(room):
        for i in range(20):
            spooling.put(Answers((f"{i}",)))
            spooling.flush()
        status = spooling.status()
        assert status.waiting + status.written == 21
        assert room or status.error == "File too large"
        assert room or not status.healthy
        assert status.lag_seconds > 0
    spooling.close()
    assert ids(tmp_path) == expected
    assert spooling.status().healthy
    assert (spooling.status().written, spooling.status().waiting, spooling.status().dropped) == (21, 0, 0)


def test_records_beyond_the_memory_limit_are_counted_as_dropped(tmp_path: Path) -> None:
    spooling = spool(tmp_path, memory=10)
    with full_disk():
        for i in range(9):
            spooling.put(Answers((f"{i}a", f"{i}b")))
            spooling.flush()
    spooling.close()
    assert ids(tmp_path) == [f"{i}{c}".encode() for i in range(5) for c in "ab"]
    assert (spooling.status().written, spooling.status().dropped) == (10, 8)


def test_unshipped_segments_have_a_limit(tmp_path: Path) -> None:
    spooling = spool(tmp_path, disk=1200, size=1)
    for i in range(5):
        spooling.put(Answers((f"{i}",)))
        spooling.flush()
    status = spooling.status()
    assert status.unshipped_bytes <= 1200
    assert status.waiting == 5 - status.written > 0
    assert "wait to be shipped" in status.error
    for segment in list_segments(tmp_path, SEALED):
        segment.remove()
    spooling.close()
    assert spooling.status().written == status.written + len(ids(tmp_path)) == 4
    assert spooling.status().waiting == 1


def test_workers_share_the_limits(tmp_path: Path) -> None:
    spools = [spool(tmp_path, disk=20_000, size=1) for _ in range(4)]
    for i in range(150):
        for number, spooling in enumerate(spools):
            spooling.put(Answers((f"{number}-{i}",)))
            spooling.flush()
    assert 15_000 < sum(size for size, _ in sizes(tmp_path)) <= 20_000


def test_an_unencodable_record_is_counted_and_blocks_no_other(tmp_path: Path) -> None:
    spooling = spool(tmp_path)
    spooling.put(Answers(("a", object())))  # type: ignore[arg-type]
    spooling.put(Answers(("b",)))
    spooling.flush()
    assert ids(tmp_path) == [b"b"]
    status = spooling.status()
    assert (status.written, status.dropped, status.waiting) == (1, 2, 0)
    assert "AssertionError" in status.error


def test_workers_report_why_the_shipper_is_blocked(tmp_path: Path) -> None:
    spooling = spool(tmp_path)
    assert spooling.status().healthy
    (tmp_path / REPORT).write_text('{"at": 1.0, "error": "the storage is down"}')
    assert spooling.status().shipping_error == "the storage is down"
    assert not spooling.status().healthy
