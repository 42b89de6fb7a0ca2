"""Terminal output: tables, progress, results of flows, and JSON for programs.

Depends on `truecourse.wording` only.
"""

__all__ = ["flow_results", "origins", "output", "progress", "sections", "tables"]
