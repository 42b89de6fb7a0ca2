"""`truecourse init`: profiles the user's tables, guesses types, keys and label, and writes a problem's folder.

Depends on `data` for how files are read.
"""

__all__ = ["create"]
