"""Verification of recorded lineage, from a prediction to the bytes of its sources.

Depends on `registry`, `deployment` and `serving`.
"""

__all__ = ["mlflow_links", "prediction_links", "version_links"]
