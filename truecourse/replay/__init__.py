"""History played forward: the world's rows in order of time, planted faults, and what came of it.

Depends on `monitoring` and `data`.
"""

__all__ = ["faults", "outcome", "problem_copy", "timeline_plot", "world"]
