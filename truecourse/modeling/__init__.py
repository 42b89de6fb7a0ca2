"""Models: encoding, splits, baselines, boosting, selection, compiled trees, predictions and explanations.

Depends on `statistics`, `storage` and `problem`.
"""

__all__ = [
    "baselines",
    "boosting",
    "encoding",
    "folds",
    "lookahead_result",
    "model",
    "prediction",
    "rolling_split",
    "selection",
    "snapshot",
    "splitting",
    "training",
]
