"""Data drift: daily counts, reference profiles, tests of a window of predictions, and causes of findings.

Depends on `monitoring.predictions` and `monitoring.robust_stats`.
"""

__all__ = [
    "attribution_drift",
    "breakage",
    "daily_attributions",
    "daily_counts",
    "drift_check",
    "evidently_report",
    "histograms",
    "permutation_test",
    "reference_profile",
    "relations",
    "unit_changes",
    "unseen_values",
    "window_drift",
]
