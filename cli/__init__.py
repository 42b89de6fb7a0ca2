"""The `truecourse` command.

It reads options, calls flows and tasks, and prints what they return. Nothing imports it.
"""

__all__: list[str] = []
