"""Concept drift: closed cohorts compared with a baseline, a sequential degradation test, estimates before labels.

Depends on `monitoring.predictions` and `truecourse.statistics`.
"""

__all__ = [
    "baseline",
    "cohorts",
    "degradation",
    "label_delay",
    "label_model",
    "quality_check",
    "quality_page",
    "streams",
]
