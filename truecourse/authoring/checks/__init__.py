"""The checks that `truecourse check` makes of a problem's folder before anything runs.

Each module looks at one part of the problem, and yields what is wrong with it.
"""

__all__ = ["column_lineage", "names", "run"]
