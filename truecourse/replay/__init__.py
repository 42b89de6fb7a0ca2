"""Replay of history: source data in order of time, planted faults, and the outcome.

Depends on `monitoring` and `data`.
"""

__all__ = ["faults", "outcome", "problem_copy", "source_data", "timeline_plot"]
