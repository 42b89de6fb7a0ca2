"""Durable storage: objects, tables of Delta Lake, ledgers, locks and file digests.

Writes are atomic. Depends on `settings` and `references`.
"""

__all__ = [
    "area_marks",
    "compaction",
    "delta_tables",
    "file_digests",
    "format",
    "fsync",
    "ledger",
    "lineage_links",
    "locks",
    "object_store",
    "redactions",
    "table_files",
]
