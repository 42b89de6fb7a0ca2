"""Metrics of predictions, and confidence intervals that allow for dependence between successive days.

Depends on `arrays` and `problem`.
"""

__all__ = ["absolute_sums", "intervals", "metrics"]
