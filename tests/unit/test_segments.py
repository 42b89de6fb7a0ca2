"""Segments distinguish complete records from torn or corrupted ones."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from truecourse.serving import log_segments
from truecourse.serving.log_segments import (
    OPEN,
    SEALED,
    Segment,
    frame_record,
    list_segments,
    parse_records,
    seal_abandoned,
)

PAYLOADS = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


@given(PAYLOADS, st.data())
def test_every_complete_record_of_a_torn_segment_is_read(payloads: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame_record, payloads))
    cut = data.draw(st.integers(0, len(whole)))
    ends = [sum(len(frame_record(payload)) for payload in payloads[: i + 1]) for i in range(len(payloads))]
    survived = sum(end <= cut for end in ends)
    assert parse_records(whole[:cut]) == (payloads[:survived], ends[survived - 1] if survived else 0)


@given(PAYLOADS.filter(bool), st.data())
def test_a_flipped_byte_yields_no_false_record(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(b"".join(map(frame_record, payloads)))
    place, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    whole[place] ^= flip
    hit = next(i for i in range(len(payloads)) if sum(len(frame_record(p)) for p in payloads[: i + 1]) > place)
    assert parse_records(bytes(whole))[0] == payloads[:hit]


@given(PAYLOADS, st.binary(max_size=200))
def test_bytes_after_the_last_record_are_ignored(payloads: list[bytes], rest: bytes) -> None:
    whole = b"".join(map(frame_record, payloads))
    assert parse_records(whole + rest) == (payloads, len(whole))
    assert parse_records(whole + bytes(len(rest))) == (payloads, len(whole))  # what a file system may leave


def test_a_segment_is_sealed_by_another_process_only_after_its_writer_died(tmp_path: Path) -> None:
    segment = Segment(tmp_path, "stream", 1)
    descriptor = log_segments.create_segment(segment)
    os.write(descriptor, frame_record(b"one") + frame_record(b"two")[:-1])
    assert seal_abandoned(tmp_path) == 0
    assert list_segments(tmp_path, OPEN) == [segment]
    os.close(descriptor)
    assert seal_abandoned(tmp_path) == len(frame_record(b"two")) - 1
    assert list_segments(tmp_path, OPEN) == []
    assert list_segments(tmp_path, SEALED) == [segment]
    assert parse_records(segment.path(SEALED).read_bytes())[0] == [b"one"]


def test_an_abandoned_segment_without_records_is_removed(tmp_path: Path) -> None:
    os.close(log_segments.create_segment(Segment(tmp_path, "stream", 1)))
    assert seal_abandoned(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_one_process_ships_at_a_time(tmp_path: Path) -> None:
    with log_segments.shipping_lock(tmp_path) as first, log_segments.shipping_lock(tmp_path) as second:
        assert (first, second) == (True, False)
    with log_segments.shipping_lock(tmp_path) as again:
        assert again


def test_sizes_are_of_segments_in_the_given_states(tmp_path: Path) -> None:
    for name, size in (("a.000000001.sealed", 3), ("a.000000002.open", 5), ("shipping", 7)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert sorted(size for size, _ in log_segments.sizes(tmp_path)) == [3, 5]
    assert [size for size, _ in log_segments.sizes(tmp_path, (log_segments.SEALED,))] == [3]
    assert log_segments.sizes(tmp_path / "none") == []
