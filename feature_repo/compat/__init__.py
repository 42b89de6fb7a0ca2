"""What depends on internals of Feast, and of the libraries that it loads: one module for each patch.

Depends on `truecourse.compat`.
"""
