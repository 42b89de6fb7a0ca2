"""The static checks of `truecourse check`, which run before anything else.

Each module checks one part of the problem and yields its faults.
"""

__all__ = ["column_lineage", "features", "names", "run_checks"]
