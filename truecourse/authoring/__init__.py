"""Tools for writing a problem: `truecourse init`, `truecourse check`, and leakage warnings.

Depends on `data`, `features`, `problem` and `modeling`.
"""

__all__ = ["checks", "data_check", "scaffold", "table_changes"]
