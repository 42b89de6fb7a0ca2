"""Rate limits of callers, on a simulated clock."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.http.limits import Buckets, per_worker
from truecourse.settings import Settings


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


waits = st.lists(st.floats(0, 5, allow_nan=False), max_size=60)


@given(st.floats(0.1, 50), st.integers(1, 20), waits)
def test_no_caller_gets_more_than_the_burst_and_the_rate(rate: float, burst: int, steps: list[float]) -> None:
    clock = Clock()
    buckets, taken = Buckets(rate, burst, clock=clock), 0
    for step in steps:
        clock.now += step
        taken += buckets.take("a") == 0
    assert taken <= burst + rate * sum(steps) + 1e-6


@given(st.floats(0.1, 50), st.integers(1, 20), waits)
def test_after_retry_after_a_token_is_available(rate: float, burst: int, steps: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(rate, burst, clock=clock)
    for step in steps:
        clock.now += step
        wait = buckets.take("a")
        if wait:
            clock.now += wait + 1e-6
            assert buckets.take("a") == 0


@given(st.integers(1, 8), st.floats(0.1, 50), st.integers(8, 40), waits)
def test_all_workers_together_grant_no_more(count: int, rate: float, burst: int, steps: list[float]) -> None:
    clock, taken = Clock(), 0
    limits = per_worker(Settings(workers=count, rate_limit=rate, rate_burst=burst))
    workers = [Buckets(limits.rate_limit, limits.rate_burst, clock=clock) for _ in range(count)]
    for step in steps:
        clock.now += step
        taken += sum(worker.take("a") == 0 for worker in workers)
    assert taken <= burst + rate * sum(steps) + 1e-6


def test_callers_have_separate_budgets() -> None:
    buckets = Buckets(1, 2, clock=Clock())
    assert [buckets.take(caller) == 0 for caller in "aaabbb"] == [True, True, False, True, True, False]


def test_the_longest_idle_callers_are_forgotten_first() -> None:
    buckets = Buckets(1, 1, most=100, clock=Clock())
    for i in range(1000):
        assert buckets.take("busy") == 0 or i
        buckets.take(f"once-{i}")
    assert len(buckets) == 100
    assert buckets.take("busy") > 0


def test_without_a_rate_limit_callers_are_not_tracked() -> None:
    buckets = Buckets(0, 1)
    assert not any(buckets.take("a") for _ in range(100))
    assert len(buckets) == 0
