"""Remove a subject from stored documents: texts, JSON, frames, archives, and ledgers with their chain of hashes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.erasure import archives
from truecourse.erasure.frames import clean_rows, has_key
from truecourse.erasure.subject import Subject
from truecourse.hashing import seal, sha256, unseal
from truecourse.storage.object_store import ObjectStore

PARQUET = b"PAR1"
_ENTRY = re.compile(r"(?P<place>.+)/\d{9}\.json")
_DIGEST = re.compile(rb'^( "sha256": )"([0-9a-f]{64})"', re.MULTILINE)
_FOLLOWS = re.compile(rb'^( "follows": )"([0-9a-f]{64})"', re.MULTILINE)


@dataclass(frozen=True)
class NewDocument:
    """The bytes of a document without the subjects: how many rows were removed, and how many texts replaced."""

    data: bytes
    removed: int = 0
    masked: int = 0


def rewrite_document(data: bytes, subjects: Sequence[Subject]) -> NewDocument | None:
    """A document without the subjects; None if they are not in it, or if it is binary."""
    if data[:4] == PARQUET:
        return _rewrite_frame(data, subjects)
    if archives.is_archive(data):
        return _rewrite_archive(data, subjects)
    if not is_text(data):
        return None
    text, removed = _without_examples(data, subjects)
    masked = 0
    for subject in subjects:
        text, count = subject.mask(text)
        masked += count
    if not masked and not removed:
        return None
    return NewDocument(_sealed_again(data, text), removed, masked)


def _without_examples(data: bytes, subjects: Sequence[Subject]) -> tuple[bytes, int]:
    """A contract holds rows of real data as examples: remove those of the subjects."""
    if b'"examples"' not in data or not any(literal in data for one in subjects for literal in one.literals):
        return data, 0
    document = _parsed(data)
    rows = document.get("examples") if document else None
    if document is None or not isinstance(rows, list):
        return data, 0
    kept = [row for row in rows if not any(isinstance(row, dict) and has_key(row, one) for one in subjects)]
    if len(kept) == len(rows):
        return data, 0
    indent = 1 if data[:3] == b"{\n " else None
    return json.dumps({**document, "examples": kept}, indent=indent, ensure_ascii=False).encode(), len(rows) - len(kept)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _rewrite_frame(data: bytes, subjects: Sequence[Subject]) -> NewDocument | None:
    try:
        rows = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        return None
    cleaned = clean_rows(rows, subjects)
    if not cleaned.removed and not cleaned.masked:
        return None
    sink = pa.BufferOutputStream()
    kept = cleaned.rows.replace_schema_metadata(None) if _holds_index(rows) else cleaned.rows
    pq.write_table(kept, sink, compression="zstd", row_group_size=1 << 17)
    return NewDocument(bytes(sink.getvalue().to_pybytes()), cleaned.removed, cleaned.masked)


def _holds_index(rows: pa.Table) -> bool:
    """Whether the schema's metadata describe the rows: pandas writes the range of its index."""
    return b"pandas" in (rows.schema.metadata or {})


def _rewrite_archive(data: bytes, subjects: Sequence[Subject]) -> NewDocument | None:
    try:
        files = rewrite_files(dict(archives.members(data)), subjects)
        packed = archives.rewrite_archive(data, lambda name, part: files[name].data if name in files else part)
    except archives.BROKEN:
        return None
    if packed is None or not files:
        return None
    return NewDocument(packed, sum(one.removed for one in files.values()), sum(one.masked for one in files.values()))


def rewrite_files(files: Mapping[str, bytes], subjects: Sequence[Subject]) -> dict[str, NewDocument]:
    """The files of one package that change. Where a file of the package names the SHA-256 of another that changes, it
    gets the new one, so that the package still verifies itself."""
    new = {name: one for name, data in files.items() if (one := rewrite_document(data, subjects)) is not None}
    digests = {sha256(files[name]).encode(): sha256(one.data).encode() for name, one in new.items()}
    for name, data in files.items() if digests else ():
        text = new[name].data if name in new else data
        if is_text(text) and any(before in text for before in digests):
            for before, after in digests.items():
                text = text.replace(before, after)
            one = new.get(name, NewDocument(b""))
            new[name] = NewDocument(text, one.removed, one.masked)
    return new


def _sealed_again(before: bytes, after: bytes) -> bytes:
    """Give a document that was sealed with its own SHA-256 a new seal."""
    if unseal(before) is None:
        return after
    document = _parsed(after)
    return after if document is None else seal(document)


def _parsed(data: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def ledger_of(key: str, data: bytes) -> str | None:
    """The place of the ledger that an object is an entry of; None for other objects."""
    named = _ENTRY.fullmatch(key)
    return named["place"] if named and _DIGEST.search(data) and b'"follows"' in data else None


def rewrite_ledger(
    store: ObjectStore, place: str, subjects: Sequence[Subject]
) -> Iterator[tuple[str, bytes, NewDocument]]:
    """The entries of a ledger that change, as (key, bytes before, new entry), oldest first.

    From the first changed entry on, each entry gets the digest of the one before it, so that the chain still proves
    that nothing else was changed. A chain that is broken already stays broken."""
    digests: dict[bytes, bytes] = {}
    """The new digest of each changed entry, by its former one."""
    for key in sorted(store.list(f"{place}/")):
        data = store.get(key)
        new = rewrite_document(data, subjects)
        text = new.data if new is not None else data
        text = _FOLLOWS.sub(lambda found: found[1] + b'"' + digests.get(found[2], found[2]) + b'"', text)
        if text == data:
            continue
        held = _DIGEST.search(data)
        if held is not None and _own_digest(data) == held[2]:
            digests[held[2]] = _own_digest(text)
            text = _DIGEST.sub(lambda found, key=held[2]: found[1] + b'"' + digests[key] + b'"', text)  # type: ignore[misc]
        yield key, data, NewDocument(text, masked=new.masked if new is not None else 0)


def _own_digest(data: bytes) -> bytes:
    return sha256(_DIGEST.sub(rb'\1""', data)).encode()
