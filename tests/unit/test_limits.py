"""Rates, and shedding under overload, on a clock that the test moves."""

import asyncio
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.limits import Buckets, Shedder, Turns, per_worker
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
def test_after_the_told_wait_there_is_a_token(rate: float, burst: int, steps: list[float]) -> None:
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
    told = per_worker(Settings(workers=count, rate_limit=rate, rate_burst=burst))
    workers = [Buckets(told.rate_limit, told.rate_burst, clock=clock) for _ in range(count)]
    for step in steps:
        clock.now += step
        taken += sum(worker.take("a") == 0 for worker in workers)
    assert taken <= burst + rate * sum(steps) + 1e-6


def test_callers_do_not_pay_for_each_other() -> None:
    buckets = Buckets(1, 2, clock=Clock())
    assert [buckets.take(caller) == 0 for caller in "aaabbb"] == [True, True, False, True, True, False]


def test_callers_are_forgotten_by_how_long_they_were_quiet() -> None:
    buckets = Buckets(1, 1, most=100, clock=Clock())
    for i in range(1000):
        assert buckets.take("busy") == 0 or i
        buckets.take(f"once-{i}")
    assert len(buckets) == 100
    assert buckets.take("busy") > 0


def test_without_a_rate_nobody_is_counted() -> None:
    buckets = Buckets(0, 1)
    assert not any(buckets.take("a") for _ in range(100))
    assert len(buckets) == 0


SERVICE, REFUSAL = 0.001, 0.0001


def answer(shedder: Shedder, clock: Clock, requests: int = 1) -> None:
    """What the event loop does itself: so many requests together."""
    for _ in range(requests):
        shedder.taken()
    began = clock.now
    clock.now += requests * SERVICE
    shedder.worked(began, requests)
    for _ in range(requests):
        shedder.left()


def flood(
    shedder: Shedder, clock: Clock, rate: float, seconds: float, seed: int | None = None
) -> list[tuple[float, float | None]]:
    """One event loop under requests at a rate, evenly or (`seed`) by chance: for each its arrival, and its latency or
    None if refused."""
    end, told, queue = clock.now + seconds, [], []
    chance, due = random.Random(seed), clock.now
    while clock.now < end:
        while due <= clock.now:
            queue.append(due)
            due += 1 / rate if seed is None else chance.expovariate(rate)
        if not queue:
            shedder.quiet()
            clock.now = due
            continue
        for moment in queue:
            if shedder.admits():
                answer(shedder, clock)
                told.append((moment, clock.now - moment))
            else:
                clock.now += REFUSAL
                told.append((moment, None))
        shedder.turn_over()
        queue = []
    return told


def latencies(told: list[tuple[float, float | None]], after: float) -> list[float]:
    return sorted(latency for moment, latency in told if latency is not None and moment >= after)


@given(st.floats(1.2, 5), st.none() | st.integers(0, 1000))
def test_under_overload_what_is_answered_is_answered_soon(load: float, seed: int | None) -> None:
    clock = Clock()
    shedder = Shedder(0.003, clock)
    told = flood(shedder, clock, load / SERVICE, 1.0, seed)
    settled = latencies(told, 1000.0 + 3 * Shedder.INTERVAL)
    assert len(settled) > 0.3 / SERVICE * 0.7, "a good part of what it can do is still done"
    assert settled[-1] < 0.003 + 2 * SERVICE


def test_without_shedding_the_queue_only_grows() -> None:
    clock = Clock()
    settled = latencies(flood(Shedder(0, clock), clock, 3 / SERVICE, 2.0), 1000.5)
    assert settled[-1] > 0.2


@given(st.integers(1, 50), st.floats(0.2, 1))
def test_a_burst_is_no_overload(size: int, pause: float) -> None:
    clock = Clock()
    shedder = Shedder(0.003, clock)
    for _ in range(5):
        clock.now += pause
        for _ in range(size):
            assert shedder.admits()
            answer(shedder, clock)
        shedder.turn_over()
        shedder.quiet()


def test_a_lone_client_is_never_refused_however_long_its_requests_take() -> None:
    """Each waits for the one before: nothing ever queues, whatever was refused before."""
    clock = Clock()
    shedder = Shedder(0.002, clock)
    turns, refused = Turns(shedder), []

    async def requests(took: float, pause: float) -> None:
        shedder._refused = clock.now  # in a burst just before
        for _ in range(100):
            turns.begin()
            refused.append(not shedder.admits())
            clock.now += took
            for _ in range(Turns.QUIET):
                await asyncio.sleep(0)
            clock.now += pause

    for took, pause in ((0.003, 0.002), (0.005, 0.015), (0.5, 0.03), (0.5, 60)):
        asyncio.run(requests(took, pause))
    assert not any(refused)


@pytest.mark.parametrize("others", [0, 1])
def test_one_that_comes_alone_is_taken_on_though_the_loop_was_held_up(others: int) -> None:
    """Another thread kept the loop from coming round: it is not known to be quiet, and only one request came."""
    clock = Clock()
    shedder = Shedder(0.002, clock)
    turns, admitted = Turns(shedder), []

    async def requests() -> None:
        for _ in range(50):
            for _ in range(1 + others):
                turns.begin()
                admitted.append(shedder.admits(alone=not turns.crowded))
            clock.now += 0.06
            await asyncio.sleep(0)  # the loop comes round once, and the next is there

    asyncio.run(requests())
    assert all(admitted) is (not others)


def test_a_crowd_is_remembered_for_as_long_as_the_loop_is_not_quiet() -> None:
    turns = Turns(Shedder(0))

    async def crowd() -> list[bool]:
        for _ in range(3):
            turns.begin()
        seen = []
        for _ in range(Turns.QUIET + 1):
            seen.append(turns.crowded)
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(crowd()) == [True] * Turns.QUIET + [False]


def test_below_its_capacity_nothing_is_refused() -> None:
    clock = Clock()
    told = flood(Shedder(0.003, clock), clock, 0.9 / SERVICE, 2.0)
    assert all(latency is not None for _, latency in told)


def test_requests_that_threads_work_on_are_waited_for_too() -> None:
    clock = Clock()
    shedder = Shedder(0.01, clock)
    began = clock.now
    for _ in range(3):
        shedder.taken()
    clock.now += 0.3
    shedder.worked(began)
    shedder.left()
    shedder.quiet()
    assert shedder.admits(), "two at work are no queue"
    shedder.taken()
    shedder.taken()
    clock.now += 2 * Shedder.INTERVAL
    shedder.quiet()
    assert not shedder.admits()


@given(st.integers(2, 60), st.integers(0, 30))
def test_a_request_among_many_answered_together_counts_its_part(size: int, refused: int) -> None:
    clock = Clock()
    shedder = Shedder(0.003, clock)
    for _ in range(300):
        answer(shedder, clock, size)
        clock.now += refused * REFUSAL  # which is no work on those that were answered
        shedder.turn_over()
        shedder.quiet()
    waited = shedder.wait()
    for _ in range(size):
        shedder.taken()
    assert abs(shedder.wait() - waited - size * SERVICE) < 0.1 * size * SERVICE


def test_of_requests_that_threads_work_on_side_by_side_each_counts_its_part() -> None:
    clock = Clock()
    shedder = Shedder(0.003, clock)
    for _ in range(400):
        began = clock.now
        shedder.taken()
        shedder.taken()
        clock.now += 2 * SERVICE
        for _ in range(2):  # they end together, each after twice the time that it takes alone
            shedder.worked(began)
            shedder.left()
    waited = shedder.wait()
    shedder.taken()
    assert abs(shedder.wait() - waited - SERVICE) < 0.2 * SERVICE
