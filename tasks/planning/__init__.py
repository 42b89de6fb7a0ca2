"""The stages of a problem as plain functions, measured in processes of their own, for `truecourse plan`.

Depends on every other package of `tasks` but `replay`.
"""

__all__ = ["calibrate", "measurement", "stages"]
