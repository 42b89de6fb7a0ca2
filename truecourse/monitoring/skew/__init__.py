"""Training/serving skew: the served features of logged predictions, computed again from the tables.

Depends on `monitoring.predictions` and `truecourse.features`.
"""

__all__ = ["audit", "causes", "check", "view_history"]
