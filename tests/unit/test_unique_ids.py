"""Ids sort by time, and those of a repeated call are equal; a record is found by an id of any form."""

import random
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.log_records import AT, entry, record
from truecourse.serving.prediction_log import PARTITION, SEARCHED, encode_entry, entries_table, find_records, log_table
from truecourse.storage.delta_tables import Tables
from truecourse.unique_ids import LONGEST_KEY, derived_ids, is_call_key, is_derived, new_call_key, new_ids

MOMENTS = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=LONGEST_KEY).filter(is_call_key)


@given(MOMENTS, MOMENTS, st.integers(0, 40))
def test_random_ids_are_uuids_in_the_order_of_time(first: datetime, second: datetime, count: int) -> None:
    ids = new_ids(count, first)
    assert len(set(ids)) == len(ids) == count
    for id in ids:
        assert (uuid.UUID(id).version, uuid.UUID(id).variant, is_derived(id)) == (7, uuid.RFC_4122, False)
        seconds = int(id[:12], 16) / 1000
        assert abs(seconds - max(0, first.timestamp())) < 0.0011
    later = new_ids(1, max(first, second) + timedelta(milliseconds=1))
    assert all(id < later[0] for id in ids) or first.year < 1970


@given(KEYS, KEYS, st.binary(max_size=20), st.binary(max_size=20), st.integers(1, 20), st.integers(1, 20))
def test_derived_ids_are_equal_exactly_for_equal_calls(
    key: str, other: str, content: bytes, different: bytes, rows: int, more: int
) -> None:
    ids = derived_ids(rows, key, content)
    assert len(set(ids)) == rows
    assert all(uuid.UUID(id).version == 8 and is_derived(id) for id in ids)
    assert derived_ids(rows + more, key, content)[:rows] == ids
    if (key, content) != (other, different):
        assert not set(ids) & set(derived_ids(rows, other, different))


def test_the_moment_of_a_key_is_that_of_its_ids() -> None:
    key = new_call_key()
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key)
    assert uuid.UUID(key).version == 7
    assert derived_ids(1, key, b"")[0][:12] == key.replace("-", "")[:12]
    for without in (str(uuid.uuid4()), "order 7", "é"):
        assert derived_ids(1, without, b"")[0].startswith("0" * 12)


def test_text_is_not_taken_for_a_derived_id() -> None:
    good = derived_ids(1, "k", b"")[0]
    for id in ("", "8", good[:-1], good + "0", good.upper(), f"{good[:12]}4{good[13:]}", good[:31] + "'"):
        assert not is_derived(id) or id == good


@pytest.mark.parametrize("statistics", [SEARCHED, ("at", "decision_time")], ids=["of ids", "of an older log"])
@pytest.mark.parametrize("files", [5, 70])
def test_a_record_is_found_by_an_id_of_any_form(statistics: tuple[str, ...], files: int, home: Path) -> None:
    chosen, ids, records = random.Random(files), [], []
    for number in range(files):
        at = AT + timedelta(days=number)
        forms = [*new_ids(1, at), chosen.randbytes(16).hex(), f"text '{number}'", *derived_ids(1, new_call_key(), b"")]
        forms += derived_ids(1, f"order {number}", b"")
        ids += forms
        records += [record(id, at=at, model_version=number) for id in forms]
        records += [record(forms[0], at=at, role="shadow", model_version=1000)]
    rows = entries_table([encode_entry(entry(one)) for one in records])
    Tables().append(log_table("deliveries"), rows, {}, partition_by=PARTITION, stats_columns=statistics)
    tables = Tables()
    for id in [*chosen.sample(ids, 12), ids[0]]:
        found = find_records(tables, "deliveries", id)
        assert [one["prediction_id"] for one in found] == [id] * len(found)
        assert [one["model_version"] for one in found if one["role"] != "shadow"] == [ids.index(id) // 5]
        assert len(found) == 1 + (ids.index(id) % 5 == 0)
        assert (Path(tables.uri("")) / found[0]["file"]).is_file()
    reference = tables.version(log_table("deliveries"))
    assert reference is not None
    assert len(tables.files(reference)) == files
    assert tables.compact(log_table("deliveries"), SEARCHED) == 0
    newest = tables.append(log_table("deliveries"), rows.slice(0, 1), {})
    assert ids[0] in [least for _, least, _ in tables.bounds(newest, "prediction_id")], "an older log has them now"
    for absent in ("no id", *new_ids(1, AT), *derived_ids(1, new_call_key(), b"")):
        assert find_records(tables, "deliveries", absent) == []
