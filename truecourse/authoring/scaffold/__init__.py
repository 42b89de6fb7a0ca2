"""`truecourse init`: profile data files, guess types, key, time and label, and write a problem's folder.

Depends on `data` for reading files.
"""

__all__ = ["column_types", "create", "guesses", "profile", "staging"]
