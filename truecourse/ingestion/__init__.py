"""Ingestion and validation of deliveries, from new contents of sources to clean tables.

Depends on `data` and `erasure`.
"""

__all__ = ["ingest", "push", "validate"]
