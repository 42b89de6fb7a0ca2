"""Training/serving skew: logged features and scores, compared with values recomputed from the tables.

Depends on `monitoring.predictions` and `truecourse.features`.
"""

__all__ = ["audit", "causes", "check", "view_history"]
