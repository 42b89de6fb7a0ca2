"""What depends on internals of a library: one module for each, with what it changes, why, and the versions it fits.

Depends on `settings` and `errors`. The packages `feature_repo.compat`, `services.compat` and `tasks.compat` hold the
modules for Feast, for the server and for Prefect.
"""

__all__ = [
    "bento_image",
    "duckdb_exit",
    "evidently_results",
    "great_expectations_import",
    "library_database",
    "mlflow_tables",
    "patch",
    "prefect_variables",
    "xgboost_library",
]
