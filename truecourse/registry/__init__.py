"""Training runs, model versions and aliases, their copy in MLflow, and the lineage of each run.

Depends on `modeling` and `storage`.
"""

__all__ = [
    "aliases",
    "lineage_record",
    "mirror_check",
    "mlflow_mirror",
    "mlflow_runs",
    "run_archive",
    "runs",
    "scorecard",
    "search_runs",
    "trained_problem",
    "versions",
]
