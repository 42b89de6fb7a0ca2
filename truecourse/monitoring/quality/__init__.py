"""Concept drift: the loss of closed cohorts beside its baseline, sequential detectors, and estimates before labels.

Depends on `monitoring.predictions` and `truecourse.statistics`.
"""

__all__ = ["check", "cohorts", "degradation", "label_delay", "label_model", "page"]
