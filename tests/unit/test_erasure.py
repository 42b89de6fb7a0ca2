"""The parts of a removal, on generated texts, files and ledgers."""

import csv
import io
import json
import sqlite3
import tarfile
import tempfile
import zipfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.erasure import archives, databases, delta_files, documents
from truecourse.erasure.frames import clean_rows
from truecourse.erasure.remembered import FORGET, Forgotten, key_hash, ledger
from truecourse.erasure.sources import rewrite_source
from truecourse.erasure.subject import Part, Subject, is_distinctive
from truecourse.evaluation.cards.card_sections import examples_table
from truecourse.evaluation.cards.markdown import section_lines
from truecourse.hashing import seal, sha256, unseal
from truecourse.problem.schema import Csv
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import LocalStore
from truecourse.storage.redactions import Redaction, is_changed, record_redaction, redacted_at

KEY = "Ada-7741"


def subject(*values: str, key: str = KEY, name: str = "customer") -> Subject:
    return Subject(name, (Part(name, frozenset({name}), key),), values=frozenset(values))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([KEY, "Bob", "Ada-77412", "x"]), CELLS), max_size=12),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_other_records_of_a_csv_stay_byte_for_byte(
    rows: list[tuple[str, str]], delimiter: str, end: str, encoding: str
) -> None:
    def written(some: list[tuple[str, str]]) -> str:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter, lineterminator=end).writerows([("customer", "note"), *some])
        return out.getvalue()

    data = written(rows).encode(encoding)
    new, removed = rewrite_source(data, Csv(delimiter=delimiter, encoding=encoding), False, [subject()])
    others = [row for row in rows if row[0] != KEY]
    assert removed == len(rows) - len(others)
    assert new == (written(others).encode(encoding) if removed else data)


@given(
    st.lists(st.tuples(st.sampled_from([KEY, 7, "7", "Bob", None]), CELLS), max_size=10), st.sampled_from([KEY, "7"])
)
def test_json_lines_keep_all_other_lines(rows: list[tuple[object, str]], key: str) -> None:
    lines = [json.dumps({"customer": one, "note": note}) + "\n" for one, note in rows]
    kept = [line for line, (one, _) in zip(lines, rows, strict=True) if str(one) != key]
    new, removed = rewrite_source("".join(lines).encode(), Csv(), True, [subject(key=key)])
    assert (new, removed) == ("".join(kept).encode(), len(lines) - len(kept))


def test_a_source_that_cannot_be_read_is_deleted_only_if_it_names_the_subject() -> None:
    assert rewrite_source(b"customer\n\xff" + KEY.encode(), Csv(), False, [subject()]) == (None, 1)
    assert rewrite_source(b"customer\n\xffBob", Csv(), False, [subject()]) == (b"customer\n\xffBob", 0)


@given(st.lists(st.sampled_from([KEY, " ", "Bob", "Ada-7741x", '"', "48213.77", "148213.77", ",", ":", "[", "]"])))
def test_no_text_names_the_subject_afterwards(parts: list[str]) -> None:
    text = "".join(parts).encode()
    masked, count = subject("48213.77").mask(text)
    assert not subject("48213.77").mask(masked)[1]
    assert (masked == text) == (count == 0)
    blank = subject("48213.77").blank(text)
    assert len(blank) == len(text)
    assert not subject("48213.77").mask(blank)[1]


@pytest.mark.parametrize("value", ["Zeppelin|*Lila*", "_hidden_#1234", "<b>Nordkap</b>", 48213.77, 1234567.5])
def test_values_of_examples_on_a_model_card_are_found(value: str | float) -> None:
    part = {"feature": "size", "value": value, "contribution": 0.1}
    example = {
        "right": True,
        "label": "late",
        "prediction": "late",
        "score": 0.9,
        "time": None,
        "contributions": [part],
    }
    text = "\n".join(section_lines(examples_table([example], "Predicted best")))
    masked, count = subject(str(value)).mask(text.encode())
    assert count == 1
    assert b"size = [redacted]: +0.1" in masked


def test_a_masked_document_can_still_be_read() -> None:
    document = {"note": f'of "{KEY}"', "edges": [1.5, 48213.77, 1e9], "key": KEY, KEY: 1}
    masked, count = subject("48213.77").mask(json.dumps(document).encode())
    assert json.loads(masked) == {
        "note": 'of "[redacted]"', "edges": [1.5, 5e4, 1e9], "key": "[redacted]", "[redacted]": 1
    }  # fmt: skip
    assert count == 4
    new = documents.rewrite_document(seal(document), [subject()])
    assert new is not None
    assert unseal(new.data) is not None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("customer=7 is unknown", True), ('{"customer": 7}', True), ('{"customer":"7"}', True), ("customer '7'", True),
        ("7 rows of customer 70", False), ("customer 7.5", False), ("at 7 of 7", False), ("my_customer=7", False),
    ],
)  # fmt: skip
def test_a_short_key_is_found_beside_its_name(text: str, named: bool) -> None:
    assert not is_distinctive("7")
    assert subject(key="7").finds_key(text.encode()) is named
    assert bool(subject(key="7").mask(text.encode())[1]) is named


@given(st.lists(st.tuples(st.sampled_from(["JFK", "LAX", None]), st.sampled_from(["JFK", "LAX"]))))
def test_all_parts_of_a_composite_key_must_match(rows: list[tuple[str | None, str]]) -> None:
    route = Subject("route", (Part("origin", frozenset({"origin"}), "JFK"), Part("dest", frozenset({"dest"}), "LAX")))
    table = pa.table({"origin": pa.array([one for one, _ in rows], pa.string()), "dest": [two for _, two in rows]})
    table = table.cast(pa.schema([("origin", pa.string()), ("dest", pa.string())]))
    cleaned = clean_rows(table, [route])
    assert [tuple(row.values()) for row in cleaned.rows.to_pylist()] == [row for row in rows if row != ("JFK", "LAX")]


def test_values_of_the_subject_become_null_in_rows_of_others() -> None:
    rows = pa.table({"depot": ["north", "south"], "last": [48213.77, 2.0], "who": [KEY, "Bob"], "n": [123457, 5]})
    cleaned = clean_rows(rows, [subject("48213.77", "123457")])
    assert cleaned.rows.to_pylist() == [
        {"depot": "north", "last": None, "who": "[redacted]", "n": None},
        {"depot": "south", "last": 2.0, "who": "Bob", "n": 5},
    ]
    assert (cleaned.removed, cleaned.masked) == (0, 3)
    assert clean_rows(rows, [subject("48213.77")], declared=True).rows == rows


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(0, 5))
def test_a_ledger_verifies_after_an_entry_was_redacted(count: int, place: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        book = ledger(store)
        for number in range(1, count + 1):
            reason = f"asked by {KEY}" if number == place else "a reason"
            at = datetime(2026, 1, number, tzinfo=UTC)
            entry = Forgotten(
                number=number, action=FORGET, reason=reason, author="me", at=at, entity="customer", key_hash="0"
            )
            book.append(entry)
        changed = list(documents.rewrite_ledger(store, "forgotten/entries", [subject()]))
        assert len(changed) == (count - place + 1 if 1 <= place <= count else 0)
        for key, _, new in changed:
            store.put(key, new.data)
        assert book.faults() == []
        assert KEY not in str(book.entries())
        data = store.get(book.key(1))
        store.put(book.key(1), data.replace(b"customer", b"other"))
        assert book.faults()  # and any other change is still found


def test_archives_keep_their_members_and_verify_themselves() -> None:
    contract = json.dumps({"examples": [{"customer": KEY, "x": 1}, {"customer": "Bob", "x": 2}]}).encode()
    about = json.dumps({"files": {"contract.json": sha256(contract), "other": sha256(b"other")}}).encode()
    files = {"m/contract.json": contract, "m/about.json": about, "m/other": b"other"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o640
            tar.addfile(member, io.BytesIO(data))
    new = documents.rewrite_document(packed.getvalue(), [subject()])
    assert new is not None
    found = dict(archives.members(new.data))
    assert list(found) == list(files)
    assert [one["customer"] for one in json.loads(found["m/contract.json"])["examples"]] == ["Bob"]
    assert json.loads(found["m/about.json"])["files"]["contract.json"] == sha256(found["m/contract.json"])
    with tarfile.open(fileobj=io.BytesIO(new.data)) as tar:
        assert {member.mode for member in tar} == {0o640}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", f"customer,x\n{KEY},1\nBob,2\n")
    rewritten, removed = rewrite_source(zipped.getvalue(), Csv(), False, [subject()])
    assert rewritten is not None
    assert (list(archives.members(rewritten)), removed) == ([("rows.csv", b"customer,x\nBob,2\n")], 1)


def test_a_database_holds_no_deleted_bytes(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, message TEXT, data BLOB)")
        database.executemany("INSERT INTO log VALUES (?, ?, ?)", [(n, f"{KEY} failed {n}", b"\0") for n in range(50)])
        database.execute("DELETE FROM log WHERE id > 40")
        database.commit()
        assert databases.count_texts(path, [subject()]) == 41
        assert databases.mask_texts(path, [subject()]) == 41
        assert database.execute("SELECT message FROM log WHERE id = 7").fetchone() == ("[redacted] failed 7",)
    assert KEY.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_every_version_of_a_table_stays_readable(home: Path) -> None:
    """Commits, checkpoints, statistics and time travel fit the rewritten files."""
    tables, name = Tables(), "tables/p/raw/o"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(12):  # a checkpoint after ten
        times = pa.array([start + timedelta(days=n), start + timedelta(days=40)], pa.timestamp("us", "UTC"))
        tables.append(name, pa.table({"customer": ["Bob", KEY], "at": times, "n": [n, 1_000_000 + n]}), {"n": n})
    columns, files = delta_files.statistics_columns(tables.store, name), {}
    for key in delta_files.data_files(tables.store, name):
        new = delta_files.rewrite_file(tables.store.get(key), [subject()], columns, declared=True)
        assert new is not None
        tables.store.put(key, new.data)
        files[key] = len(new.data), new.statistics
    for key, data in delta_files.patch_log(tables.store, name, files):
        tables.store.put(key, data)
    delta_files.remove_pointer(tables.store, name)
    again = Tables()
    for n in range(12):
        rows = again.read(type(tables.version(name))(name=name, version=n))  # type: ignore[misc]
        assert sorted(rows["n"].to_pylist()) == list(range(n + 1))
    assert again.newest(name, "at") == start + timedelta(days=11)
    assert [commit["n"] for _, commit in again.commits(name)] == list(range(12))
    again.append(name, pa.table({"customer": ["Eve"], "at": times[:1], "n": [99]}), {"n": 12})
    again.compact(name)
    newest = again.version(name)
    assert newest is not None
    assert len(Tables().read(newest)) == 13


@settings(max_examples=15)
@given(st.permutations(["a", "b", "c", ""]))
def test_a_chain_of_redactions_is_followed_and_nothing_else(digests: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, at = LocalStore(Path(folder)), datetime(2026, 1, 1, tzinfo=UTC)
        chain = digests[: digests.index("") + 1]
        for n, (before, after) in enumerate(pairwise(chain)):
            record_redaction(store, "x/y.json", Redaction(before=before, after=after, at=at + timedelta(days=n)))
        for n, before in enumerate(chain):
            for m, after in enumerate(chain):
                assert is_changed(store, "x/y.json", before, after) is (m < n)
                assert (redacted_at(store, "x/y.json", before, after) is not None) is (m > n)
        assert is_changed(store, "x/y.json", "a", "tampered")
        data = store.get("forgotten/objects/x/y.json.json") if len(chain) > 1 else b""
        if data:  # a record that was changed proves nothing
            store.put("forgotten/objects/x/y.json.json", data.replace(b'"after"', b'"AFTER"'))
            assert redacted_at(store, "x/y.json", chain[0], chain[1]) is None


def test_the_hash_of_a_key_depends_on_the_salt(tmp_path: Path) -> None:
    one, other = LocalStore(tmp_path / "1"), LocalStore(tmp_path / "2")
    assert key_hash(one, "customer", ["7"]) == key_hash(one, "customer", ["7"])
    assert key_hash(one, "customer", ["7"]) not in (key_hash(other, "customer", ["7"]), key_hash(one, "shop", ["7"]))
    assert sha256(b"7") not in key_hash(one, "customer", ["7"])
