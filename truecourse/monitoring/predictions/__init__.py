"""Predictions and labels as the checks read them, and the detection of silence.

Depends on `truecourse.serving` and `truecourse.features`.
"""

__all__ = ["labels", "log_sample", "observed_predictions", "served_predictions", "silence"]
