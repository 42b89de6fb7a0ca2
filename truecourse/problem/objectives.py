"""What an endpoint promises: the service level objectives of a problem."""

from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=CONFIG)
class Objectives:
    """Over `window`, of requests to predict and to explain: the share that is answered (`availability`: neither a 5xx
    nor refused for overload), and the share that is answered within `latency` (`fast`), from the header to the answer.

    The meters know latencies by buckets: a `latency` between two bounds counts as the lower."""

    _: KW_ONLY
    availability: Share = 0.999
    latency: Annotated[timedelta, Field(ge=timedelta(milliseconds=1))] = timedelta(milliseconds=100)
    fast: Share = 0.99
    window: Annotated[timedelta, Field(ge=timedelta(days=1), le=timedelta(days=90))] = timedelta(days=30)
