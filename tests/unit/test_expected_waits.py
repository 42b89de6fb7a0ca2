"""Admission and rejection on a simulated clock: one worker whose event loop alternates between reading and working."""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.http.exchange import Exchange
from services.http.load_shedding import BYTE, REQUEST, Kind, Load, Pace, Task, Waits
from services.http.scheduling import ONE_REQUEST, TURN

LIMIT = 0.1
READ = 0.0002
"""Seconds to read a request."""


@dataclass
class Worker:
    """`took`: seconds to answer a request. `refused`: per rejection, the seconds of work ahead, or that it waited."""

    took: float = 0.001
    limit: float = LIMIT
    reading: float = READ
    stall: Callable[[], float] = lambda: 0.0
    now: float = 1000.0
    answered: list[tuple[str, float, float]] = field(default_factory=list)
    refused: list[tuple[str, float]] = field(default_factory=list)
    longest: int = 0
    woken: float = 0.0
    arrived: dict[Exchange, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.load = Load(lambda: self.limit, lambda: self.now)

    @property
    def capacity(self) -> float:
        return 1 / (self.took + self.reading)

    def read(self, caller: str, came: float, again: Callable[[], None] = lambda: None) -> None:
        exchange = Exchange({"path": "/predict", "headers": [(b"content-length", b"500")]})
        exchange.caller = caller
        self.now += self.reading
        if self.load.admits(exchange):
            self.load.put(exchange, b"a" * 500, lambda reply: again())
            self.arrived[exchange] = came
            self.longest = max(self.longest, len(self.load.light.queue))
        else:
            self.refused.append((caller, self.load.light.ahead(caller)))

    def turn(self) -> None:
        tasks, late = self.load.take(self.load.light, TURN)
        self.refused += [(task.exchange.caller, self.now - self.arrived[task.exchange]) for task in late]
        if not tasks:
            return
        began = self.now
        self.now += self.took * len(tasks) + self.stall()
        self.load.learn(self.load.light, tasks, began)
        self.load.learn_turn(self.now - self.woken)
        for task in tasks:
            self.answered.append((task.exchange.caller, self.now, self.now - self.arrived[task.exchange]))
            task.done(None)  # type: ignore[arg-type]

    def open(self, rates: dict[str, float], seconds: float, chance: random.Random) -> None:
        """Open loop: requests arrive at random at these rates, whatever was answered."""
        due = dict.fromkeys(rates, self.now)
        end = self.now + seconds
        while self.now < end:
            before = self.woken = self.now
            while (first := min(due, key=due.__getitem__)) and due[first] <= before:
                self.read(first, due[first])
                due[first] += chance.expovariate(rates[first])
            self.turn()
            if not self.load.light.queue:
                self.now = max(self.now, min(due.values()))

    def closed(self, clients: int, seconds: float, caller: str = "a") -> None:
        """Closed loop: each client sends again as soon as it is answered."""
        end, ready = self.now + seconds, deque([self.now] * clients)
        while self.now < end:
            self.woken = self.now
            for _ in range(len(ready)):
                self.read(caller, ready.popleft(), lambda: ready.append(self.now))
            self.turn()

    def latencies(self, caller: str = "", after: float = 0.0) -> np.ndarray:
        found = [took for who, at, took in self.answered if caller in ("", who) and at >= after]
        return np.array(found or [0.0])


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1.5, 3.0, 10.0]), st.integers(0, 1000), st.sampled_from([0.0004, 0.001, 0.004]))
def test_under_overload_admitted_requests_are_in_time(times: float, seed: int, took: float) -> None:
    """Most turns take their expected time; a few take 20 ms more, as with a busy processor."""
    chance = random.Random(seed)
    worker = Worker(took, reading=0.00002, stall=lambda: 0.02 if chance.random() < 0.05 else 0.0)
    worker.closed(1, 0.5)
    began = worker.now
    worker.open({"a": times / took}, 3.0, chance)
    later = worker.latencies(after=began + 0.3)
    assert np.quantile(later, 0.99) <= LIMIT + TURN + 0.02
    left_for_answers = (1 - 0.00002 * times / took) * 0.8  # and a fifth for the stalls
    assert len(later) / 2.7 >= 0.7 * left_for_answers / took
    assert worker.longest <= 1.5 * LIMIT / took


def test_a_new_worker_learns_service_times_under_overload() -> None:
    worker = Worker(0.004)
    worker.open({"a": 1000}, 2.0, random.Random(1))
    assert np.quantile(worker.latencies(after=1001.0), 0.99) <= LIMIT + 2 * TURN
    assert len(worker.latencies(after=1001.0)) > 0.7 * worker.capacity
    assert worker.longest <= LIMIT / (REQUEST + 500 * BYTE) + 1


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 256), st.floats(0.0001, 0.02))
def test_a_short_queue_rejects_nothing(clients: int, took: float) -> None:
    worker = Worker(took)
    worker.closed(1, 0.5)
    clients = max(1, min(clients, int(0.65 * LIMIT / (took + READ))))
    worker.closed(clients, 2.0)
    assert not worker.refused
    assert len(worker.answered) >= 2.2 * worker.capacity


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_rejected_requests_would_have_waited_about_the_limit(seed: int) -> None:
    worker = Worker()
    worker.closed(1, 0.5)
    worker.open({"a": 2000}, 1.0, random.Random(seed))
    assert len(worker.refused) > 100
    for_answers = 1 - 2000 * READ  # of the time
    assert min(work for _, work in worker.refused) / for_answers > 0.6 * LIMIT


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_below_capacity_nothing_is_rejected(seed: int) -> None:
    worker = Worker()
    worker.open({"a": 0.8 * worker.capacity}, 2.0, random.Random(seed))
    assert not worker.refused


def test_a_single_stall_causes_no_later_rejections() -> None:
    stalls = [0.5]
    worker = Worker(0.0001, stall=lambda: stalls.pop() if stalls and worker.now > 1000.5 else 0.0)
    worker.closed(16, 2.0)
    assert not stalls
    assert not worker.refused


def test_light_callers_are_answered_soon_whatever_others_send() -> None:
    worker = Worker()
    worker.open({"hog": 2000, "small": 50}, 3.0, random.Random(1))
    assert "small" not in {caller for caller, _ in worker.refused}
    assert np.quantile(worker.latencies("small"), 0.99) < LIMIT / 4
    assert len(worker.latencies("hog")) > 100


def test_two_heavy_callers_get_equal_shares() -> None:
    worker = Worker()
    worker.open({"a": 600, "b": 1200}, 3.0, random.Random(1))
    shares = [len(worker.latencies(caller)) for caller in "ab"]
    assert min(shares) > 0.8 * max(shares)


def test_after_an_overload_rejections_end_within_the_limit() -> None:
    worker = Worker()
    worker.open({"a": 5000}, 2.0, random.Random(1))
    while worker.load.light.queue:
        worker.turn()
    assert worker.refused
    worker.refused.clear()
    worker.open({"a": 0.5 * worker.capacity}, 1.0, random.Random(2))
    assert not worker.refused


def test_without_a_limit_nothing_is_rejected() -> None:
    worker = Worker(limit=0.0)
    worker.open({"a": 3000}, 1.0, random.Random(1))
    assert not worker.refused


def test_expected_times_depend_on_body_length() -> None:
    now = [0.0]
    load = Load(lambda: LIMIT, lambda: now[0])

    def ask(length: int) -> Exchange:
        exchange = Exchange({"path": "/explain", "headers": [(b"content-length", b"%d" % length)]})
        exchange.caller = "a"
        return exchange

    def take(length: int, took: float) -> None:
        load.put(ask(length), b"a" * length, lambda reply: None)
        (task,), _ = load.take(load.light, ONE_REQUEST)
        now[0] += took
        load.learn(load.light, [task], now[0] - took)

    for _ in range(50):
        take(60_000, 0.03)
        take(600, 0.0001)
    for length, most in ((60_000, 5), (600, 1000)):
        count = 0
        while load.admits(ask(length)) and count < 5000:
            load.put(ask(length), b"a" * length, lambda reply: None)
            count += 1
        assert 0.5 * most <= count <= 1.2 * most
        while load.light.queue:
            load.light.queue.pop()


def test_request_kinds_that_take_no_time_are_learned_too() -> None:
    kind = Kind(REQUEST)
    for _ in range(5):
        kind.learn(0.0)
    assert kind.seconds > 0
    for _ in range(2000):
        kind.learn(0.01)
    assert kind.seconds > 0.009


def test_only_requests_that_need_threads_wait_for_threads() -> None:
    load = Load(lambda: LIMIT, lambda: 0.0)

    def ask(path: str) -> Exchange:
        exchange = Exchange({"path": path, "headers": [(b"content-length", b"9000")]})
        exchange.caller = "a"
        return exchange

    kind = load.kinds.of("/explain", 9000)
    kind.heavy, kind.seconds = True, 0.06
    for _ in range(2):
        assert load.admits(ask("/explain"))
        load.put(ask("/explain"), b"a" * 9000, lambda reply: None)
    assert not load.admits(ask("/explain"))
    assert load.admits(ask("/predict"))
    assert not load.light.queue
    tasks, _ = load.take(load.heavy, ONE_REQUEST)
    load.heavy.running += sum(task.seconds for task in tasks)
    assert not load.admits(ask("/explain")), "what was begun is not done"


def test_during_rejections_overdue_requests_are_rejected_too() -> None:
    now = [0.0]
    load = Load(lambda: LIMIT, lambda: now[0])
    exchange = Exchange({"path": "/predict", "headers": []})
    for _ in range(3):
        load.put(exchange, b"", lambda reply: None)
    now[0] = 2 * LIMIT
    load.put(exchange, b"", lambda reply: None)

    def sizes(found: tuple[list[Task], list[Task]]) -> tuple[int, int]:
        return len(found[0]), len(found[1])

    assert sizes(load.take(load.light, ONE_REQUEST)) == (1, 0), "where nobody is refused, it is answered late"
    load.last_refusal = now[0]
    assert sizes(load.take(load.light, TURN)) == (1, 2)


@given(st.lists(st.tuples(st.floats(0.0001, 0.1), st.floats(0.0001, 3)), max_size=50), st.floats(0, 0.0499))
def test_an_empty_queue_rejects_nothing(waits: list[tuple[float, float]], work: float) -> None:
    learned = Waits()
    for reckoned, took in waits:
        learned.learn(reckoned, took)
    assert learned.expected(0.0, LIMIT) <= LIMIT
    assert learned.factor >= 0.5
    assert learned.expected(work, LIMIT) >= learned.factor * work


@given(st.floats(0.8, 6))
def test_the_correction_of_expected_waits_is_learned(times: float) -> None:
    learned = Waits()
    for _ in range(200):
        learned.learn(0.03, 0.03 * times)
    assert math.isclose(learned.expected(0.03, LIMIT), 0.03 * times, rel_tol=0.1)
    for _ in range(3000):
        learned.learn(0.0001, 0.0002)
    assert learned.factor < 1.3, "what was learned under load is forgotten without"


@settings(max_examples=10, deadline=None)
@given(st.floats(0.00005, 0.001))
def test_few_rejections_are_sent_at_once_and_many_are_paced(took: float) -> None:
    now = [5.0]
    pace = Pace(lambda: now[0])

    def refuse() -> float | None:
        began = now[0]
        now[0] += took
        return pace.delay(began)

    assert [refuse() for _ in range(Pace.AT_ONCE // 10)] == [0.0] * (Pace.AT_ONCE // 10)
    delays = [found for _ in range(int(2 / took)) if (found := refuse()) is not None]
    assert max(delays) <= Pace.LONGEST + Pace.TOGETHER + 1e-9
    seconds = now[0] - 5.0
    for_them = (len(delays) - Pace.AT_ONCE) * Pace.RELATIVE_COST * took
    assert for_them <= 1.1 * Pace.SHARE * (seconds + Pace.LONGEST)
    assert any(delays), "some wait"
    now[0] += Pace.LONGEST + 1
    assert refuse() == 0.0


def test_a_stall_does_not_count_as_rejection_time() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    before = pace.rate
    pace.delay(now[0] - 1.0)
    assert pace.rate > before / 5


def test_unread_requests_count_as_waiting() -> None:
    load = Load(lambda: LIMIT, lambda: 0.0)
    exchange = Exchange({"path": "/predict", "headers": []})
    load.put(exchange, b"", lambda reply: None)
    load.light.queue.work = 0.9 * LIMIT
    assert load.admits(exchange)
    for _ in range(20):
        load.learn_turn(0.02)
    assert not load.admits(exchange)
    for _ in range(20):
        load.learn_turn(1.0)
    load.light.queue.work = 0.7 * LIMIT
    assert load.admits(exchange), "stalls alone refuse nobody"
