"""Python for notebooks: a problem's tables, features, models, reports and comparisons as objects with an HTML form.

`truecourse.open()` loads it by name. Depends on `tasks.training` and `truecourse.evaluation`.
"""

__all__ = []
