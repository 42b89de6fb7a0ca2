"""The queue: fair between callers, first come first served for each, with a correct amount of work ahead."""

import string

from hypothesis import given
from hypothesis import strategies as st

from services.http.fair_queue import MAX_IDLE, FairQueue

callers = st.sampled_from(string.ascii_lowercase[:4])
seconds = st.floats(0.001, 0.1)
sent = st.lists(st.tuples(callers, seconds), min_size=1, max_size=80)
Sent = list[tuple[str, float]]


def filled(requests: Sent) -> FairQueue[tuple[str, int, float]]:
    queue: FairQueue[tuple[str, int, float]] = FairQueue()
    for number, (caller, took) in enumerate(requests):
        queue.push(caller, took, (caller, number, took))
    return queue


@given(sent)
def test_all_requests_are_served_in_order_per_caller(requests: Sent) -> None:
    queue = filled(requests)
    served = [queue.pop() for _ in range(len(queue))]
    assert sorted(number for _, number, _ in served) == list(range(len(requests)))
    for one in {caller for caller, _ in requests}:
        numbers = [number for caller, number, _ in served if caller == one]
        assert numbers == sorted(numbers)
    assert not queue.flows, "nothing is kept of callers who wait for nothing"
    assert queue.work == 0


@given(sent)
def test_two_waiting_callers_get_equal_time_up_to_one_request(requests: Sent) -> None:
    queue, got = filled(requests), dict.fromkeys("ab", 0.0)
    longest = {one: max((took for caller, took in requests if caller == one), default=0.0) for one in "ab"}
    while all(queue.flows[one].requests if one in queue.flows else 0 for one in "ab"):
        caller, _, took = queue.pop()
        if caller in got:
            got[caller] += took
        assert abs(got["a"] - got["b"]) <= sum(longest.values()) + 1e-9


@given(sent, callers)
def test_the_work_ahead_equals_what_is_served_before(requests: Sent, caller: str) -> None:
    queue = filled(requests)
    announced, done = queue.ahead(caller), 0.0
    queue.push(caller, 0.001, (caller, -1, 0.001))
    while (found := queue.pop())[1] >= 0:
        done += found[2]
    a_request_of_each = sum(max((took for who, took in requests if who == one), default=0.0) for one in "abcd")
    assert abs(announced - done) <= a_request_of_each + 1e-9
    if {who for who, _ in requests} == {caller}:
        assert abs(announced - done) < 1e-9


def test_light_callers_are_served_before_a_heavy_callers_backlog() -> None:
    queue = filled([("hog", 0.01)] * 500)
    for _ in range(100):
        queue.pop()
        queue.push("small", 0.01, ("small", 0, 0.01))
        assert queue.ahead("small") <= 0.0201
        assert "small" in {queue.pop()[0] for _ in range(3)}
        queue.push("hog", 0.01, ("hog", 0, 0.01))


def test_long_requests_do_not_get_more_time() -> None:
    queue, got = filled([("short", 0.001)] * 1000 + [("long", 0.1)]), {"short": 0.0, "long": 0.0}
    for _ in range(500):
        caller, _, took = queue.pop()
        got[caller] += took
        if caller == "long":  # it asks again as soon as it is answered, and has nothing in the queue meanwhile
            queue.push("long", 0.1, ("long", 0, 0.1))
    assert got["long"] <= got["short"] + 0.2


def test_few_departed_callers_are_remembered() -> None:
    queue = filled([("hog", 0.01)] * 20)
    for number in range(5000):
        queue.push(f"once {number}", 0.01, ("", 0, 0.01))
        queue.pop()
    assert len(queue.flows) <= MAX_IDLE + 2 * (len(queue) + 1) + 1
