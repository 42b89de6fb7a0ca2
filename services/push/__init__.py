"""Rows that are pushed to the endpoint: the process that writes them, and the worker's connection to it.

Depends on `feature_repo`.
"""

__all__ = ["connection"]
