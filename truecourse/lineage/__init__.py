"""Lineage: verified from a prediction to the bytes of its sources, and followed forwards from a source row.

Depends on `registry`, `deployment` and `serving`.
"""

__all__ = [
    "environment_diff",
    "feature_origins",
    "forward_trace",
    "mlflow_links",
    "prediction_links",
    "snapshot_diff",
    "table_diff",
    "version_links",
]
