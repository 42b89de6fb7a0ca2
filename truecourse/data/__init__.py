"""Ingest and validation, from sources to clean tables: readers, parsing, deliveries, expectations, SQL over tables.

Depends on `storage` and `problem`.
"""

__all__ = [
    "arrow_types",
    "decoding",
    "deliveries",
    "expectations",
    "former_columns",
    "merge",
    "overlap",
    "parsing",
    "pending_batch",
    "quarantine",
    "readers",
    "records",
    "reread",
    "sources",
    "sql",
    "table_edits",
    "table_views",
    "times",
    "validation_report",
]
