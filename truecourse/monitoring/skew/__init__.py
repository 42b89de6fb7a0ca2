"""Training/serving skew: logged features and scores, compared with values recomputed from the tables.

Depends on `monitoring.predictions` and `truecourse.features`.
"""

__all__ = ["causes", "feature_audit", "skew_check", "view_history"]
