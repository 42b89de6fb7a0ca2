"""Logged predictions as the checks read them, their labels, and silence.

Depends on `truecourse.serving` and `truecourse.features`.
"""

__all__ = ["effective", "labels", "log_sample", "observed", "silence"]
