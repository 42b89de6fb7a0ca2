"""Batch predictions of decisions and files, and the shipping of the endpoint's prediction log.

Depends on `tasks.features` and `truecourse.serving`.
"""

__all__ = ["decisions", "files", "ship_log"]
