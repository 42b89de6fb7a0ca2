"""Tools for writing a problem: `truecourse init`, `truecourse check`, and leakage warnings.

Depends on `data`, `problem` and `modeling`.
"""

__all__ = ["checks", "data_check", "scaffold"]
