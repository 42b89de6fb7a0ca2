"""What helps a person to write a problem: `truecourse init`, `truecourse check`, and warnings of leakage.

Depends on `data`, `problem` and `modeling`.
"""

__all__ = ["checks", "data_check", "scaffold"]
