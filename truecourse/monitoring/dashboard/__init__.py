"""The control page of a problem, its timelines, the index of problems, and the summary of a version.

Depends on the other packages of `monitoring`.
"""

__all__ = ["control_page", "index", "version_summary"]
