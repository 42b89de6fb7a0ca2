"""Predictions and labels as the checks read them, and the detection of silence.

Depends on `truecourse.serving` and `truecourse.features`.
"""

__all__ = ["effective", "labels", "log_sample", "observed", "silence"]
