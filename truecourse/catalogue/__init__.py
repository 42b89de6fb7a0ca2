"""The feature catalogue: what each feature of a problem is, how it is distributed, who uses it, and what it costs.

Depends on `truecourse.registry`, `truecourse.features` and `truecourse.serving`.
"""

__all__ = ["build", "chart", "distributions", "page", "records", "shared_areas", "shared_tables", "texts"]
