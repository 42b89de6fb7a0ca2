"""Training runs, model versions and aliases, their copy in MLflow, and the lineage of each run.

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
