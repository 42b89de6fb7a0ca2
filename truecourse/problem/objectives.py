"""Service level objectives (SLOs) of a problem's endpoint."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=CONFIG)
class Objectives:
    """Objectives for predict and explain requests over `window`.

    Latencies are measured in histogram buckets: a `latency` between two bounds counts as the lower bound."""

    _: KW_ONLY
    availability: Share = 0.999
    """Least share of requests without a 5xx response or a refusal for overload. Example: `availability=0.99`."""
    latency: Annotated[timedelta, Field(ge=timedelta(milliseconds=1))] = timedelta(milliseconds=100)
    """The time from header to response in which requests are answered. Example: `latency=seconds(0.05)`."""
    fast: Share = 0.99
    """Least share of requests answered within `latency`. Example: `fast=0.95`."""
    window: Annotated[timedelta, Field(ge=timedelta(days=1), le=timedelta(days=90))] = timedelta(days=30)
    """The time over which the error budgets are counted. Example: `window=days(7)`."""
