"""What depends on internals of Prefect: one module for each patch, which it states as `PATCH`.

Depends on `truecourse.compat`. The command line uses it too.
"""

__all__ = ["prefect_deploy", "prefect_logging", "prefect_schedules", "prefect_tables", "prefect_unreachable"]
