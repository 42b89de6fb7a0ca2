"""The steps of the flows: Prefect tasks that take references, do one thing, and return references.

Only flows, the command line and benchmarks import tasks.
"""

__all__ = [
    "compat",
    "data",
    "features",
    "hooks",
    "monitoring",
    "naming",
    "open_problem",
    "planning",
    "release",
    "replay",
    "scoring",
    "state",
    "training",
]
