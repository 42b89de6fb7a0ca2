"""Models: encoding, splits, baselines, boosting, selection, compiled trees, predictions and explanations.

Depends on `statistics`, `storage` and `problem`.
"""

__all__ = [
    "baselines",
    "boosting",
    "compiled_forest",
    "decisions",
    "encoding",
    "intervals",
    "model",
    "prediction",
    "selection",
    "snapshot",
    "splitting",
    "training",
    "trials",
    "weights",
]
