"""Snapshots, training, tuning and evaluation of models, and their verification by tracing and reproduction.

Depends on `tasks.features`, `truecourse.modeling` and `truecourse.evaluation`.
"""

__all__ = ["evaluate", "reproduce", "retrain", "snapshot", "trace", "train", "tune"]
