"""Snapshots, training, tuning and evaluation of models, and their verification by tracing and reproduction.

Depends on `tasks.features`, `truecourse.modeling` and `truecourse.evaluation`.
"""

__all__ = [
    "build_snapshot",
    "compare_models",
    "compare_problems",
    "compare_versions",
    "evaluate_model",
    "reproduce",
    "retrain",
    "select_features",
    "trace",
    "train",
    "tune",
    "tuning_study",
    "tuning_workers",
]
