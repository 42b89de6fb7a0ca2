"""Metrics of predictions, and intervals of figures over successive days.

Depends on `arrays` and `problem`.
"""

__all__ = ["intervals", "metrics", "ranking_metrics"]
