"""Batch scoring of decisions and files, and shipping of the prediction log.

Depends on `tasks.features` and `truecourse.serving`.
"""

__all__ = ["score_decisions", "score_files", "ship_log"]
