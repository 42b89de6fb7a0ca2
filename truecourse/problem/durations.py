"""Durations by unit, for declarations."""

from datetime import timedelta


def days(count: float) -> timedelta:
    """A duration of `count` days. Example: `days(7)`."""
    return timedelta(days=count)


def hours(count: float) -> timedelta:
    """A duration of `count` hours. Example: `hours(12)`."""
    return timedelta(hours=count)


def minutes(count: float) -> timedelta:
    """A duration of `count` minutes. Example: `minutes(30)`."""
    return timedelta(minutes=count)


def seconds(count: float) -> timedelta:
    """A duration of `count` seconds. Example: `seconds(5)`."""
    return timedelta(seconds=count)
