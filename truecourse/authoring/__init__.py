"""Tools for writing a problem: `truecourse init`, `truecourse check`, and leakage warnings.

Depends on `data`, `features`, `problem` and `modeling`.
"""

__all__ = ["checks", "data_check", "leakage", "scaffold", "table_changes"]
