"""Feature views: computed, loaded into the online store, and joined to decisions.

Depends on `truecourse.features` and `feature_repo`.
"""

__all__ = ["compute", "decision_frame", "load_online", "trained_features"]
