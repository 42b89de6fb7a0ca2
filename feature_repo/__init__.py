"""Feast for a problem: its objects, offline and online store, and feature reads for serving."""

from feature_repo.compat import typeguard_decorator

typeguard_decorator.install()  # before Feast is imported
