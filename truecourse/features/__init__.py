"""Point-in-time correct feature views and training frames: view SQL, as-of joins, definitions, look-ahead proofs.

Depends on `data` and `modeling`.
"""

__all__ = [
    "affected_spans",
    "aggregates",
    "aggregation_lookup",
    "aggregation_rows",
    "asof",
    "clock",
    "columns_read",
    "computation_cost",
    "decisions",
    "definition_digests",
    "feature_tables",
    "frame",
    "label_window",
    "lookahead_proof",
    "view_sql",
    "view_versions",
]
