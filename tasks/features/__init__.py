"""Compute feature views, load them into the online store, and join them to decisions.

Depends on `truecourse.features` and `feature_repo`.
"""

__all__ = ["compute_features", "decision_frame", "load_online", "trained_features"]
