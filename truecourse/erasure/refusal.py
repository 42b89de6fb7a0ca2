"""Refuse rows of forgotten subjects when a source is read again: they reach neither tables nor the archive."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.deliveries import archive_key
from truecourse.data.sources import Located
from truecourse.erasure.remembered import Remembered
from truecourse.erasure.sources import rewrite_source
from truecourse.erasure.subject import Subject, matching_rows, subject_of
from truecourse.hashing import sha256
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.redactions import Redaction, record_redaction
from truecourse.wording import counted


class RefusedRows:
    """The rows of one source that belong to forgotten subjects."""

    def __init__(self, problem: Namespace, table: Table, store: ObjectStore) -> None:
        self._problem, self._table, self._store = problem, table, store
        self._remembered = Remembered(store)
        self._subjects: dict[tuple[str, tuple[str, ...]], Subject] = {}
        self.count = 0

    def without(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches without rows of forgotten subjects."""
        for batch in batches:
            keys = self._remembered.refused_keys(self._problem, self._table, batch) if self._remembered else set()
            for entity, key in sorted(keys):
                subject = self._subject(entity, key)
                gone = matching_rows(pa.Table.from_batches([batch]), subject).combine_chunks()
                self.count += pc.sum(gone).as_py() or 0
                batch = batch.filter(pc.invert(gone))
            yield batch

    def _subject(self, entity: str, key: tuple[str, ...]) -> Subject:
        known = self._subjects.get((entity, key))
        if known is None:
            known = subject_of(self._problem, entity, key)
            assert known is not None  # the problem declares the entity
            self._subjects[entity, key] = known
        return known

    def warnings(self, uri: str) -> Iterator[str]:
        """A warning that counts the refused rows, if there are any. It does not name the subjects."""
        if self.count:
            subjects = counted(len(self._subjects), "forgotten subject")
            yield f"{uri}: {counted(self.count, 'row')} of {subjects} refused: truecourse forget --list"

    def clean_archive(self, source: Located) -> None:
        """Rewrite the archived bytes without the refused rows, or delete them if that cannot be done."""
        if not self.count:
            return
        key = archive_key(self._problem.name, self._table.name, source.sha256)
        data = self._store.get(key)
        new, _ = rewrite_source(data, source.csv, source.format == "jsonl", list(self._subjects.values()))
        after = "" if new is None else sha256(new)
        record_redaction(self._store, key, Redaction(before=sha256(data), after=after, at=datetime.now(UTC)))
        if new is None:
            self._store.delete(key)
        else:
            self._store.put(key, new)
