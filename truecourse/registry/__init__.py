"""Runs, versions and aliases, and their copy in MLflow; what each run was trained on.

Depends on `modeling` and `storage`.
"""

__all__ = [
    "aliases",
    "lineage_record",
    "mirror",
    "mirror_check",
    "mlflow_runs",
    "run_archive",
    "runs",
    "scorecard",
    "versions",
]
