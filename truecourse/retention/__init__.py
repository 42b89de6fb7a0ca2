"""Retention: what nothing needs under the retention settings is found and removed, and the rest is kept with a reason.

Depends on all other packages but `replay` and `migration`.
"""

__all__ = ["collect", "inventory", "kept_versions", "marking", "removal"]
