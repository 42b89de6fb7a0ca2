"""Ingest and validation, from sources to clean tables: readers, parsing, deliveries, expectations, SQL over tables.

Depends on `storage` and `problem`.
"""

__all__ = [
    "arrow_types",
    "decoding",
    "deliveries",
    "expectations",
    "merge",
    "overlap",
    "parsing",
    "pending_batch",
    "readers",
    "records",
    "reread",
    "sources",
    "sql",
    "times",
    "validation_report",
]
