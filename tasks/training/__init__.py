"""Snapshots, training, tuning, evaluation, and what proves them: traces and reproductions.

Depends on `tasks.features`, `truecourse.modeling` and `truecourse.evaluation`.
"""

__all__ = ["evaluate", "reproduce", "retrain", "snapshot", "trace", "train", "tune"]
