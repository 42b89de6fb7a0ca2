"""Ingestion and validation of deliveries.

Depends on `truecourse.data`.
"""

__all__ = ["forget_subject", "ingest", "validate"]
