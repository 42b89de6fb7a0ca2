"""A queue that is fair between callers, and estimates the wait of each caller's next request."""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")
MAX_IDLE = 256
"""Idle callers that are remembered, beside as many as have requests in the queue."""


@dataclass(slots=True)
class _Flow:
    """One caller's requests in the queue, and their `work` in seconds. `finish`: virtual time at which the last of them
    will have been served."""

    requests: int = 0
    work: float = 0.0
    finish: float = 0.0


class FairQueue(Generic[Item]):
    """Weighted fair queueing by start times (Demers, Keshav and Shenker, SIGCOMM 1989; Goyal, Vin and Cheng, 1996):
    while several callers have requests in the queue, each gets an equal part of the time, and unused time goes to the
    others. Requests of one caller are served in order. Push and pop take logarithmic time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Flow, float, Item]] = []
        self.flows: dict[str, _Flow] = {}
        self._virtual, self._active = 0.0, 0
        self._numbers = count()
        self.work = 0.0
        """Seconds of work of all requests in the queue."""

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, caller: str, seconds: float, item: Item) -> None:
        """Add a request. `seconds`: its expected work."""
        flow = self.flows.get(caller)
        if flow is None:
            self._drop_idle()
            flow = self.flows[caller] = _Flow()
        self._active += not flow.requests
        start = max(self._virtual, flow.finish)
        flow.finish = start + seconds
        flow.requests += 1
        flow.work += seconds
        self.work += seconds
        heappush(self._heap, (start, next(self._numbers), flow, seconds, item))

    def pop(self) -> Item:
        """Remove and return the next request. Raises IndexError if the queue is empty."""
        start, _, flow, seconds, item = heappop(self._heap)
        self._virtual = max(self._virtual, start) + seconds / self._active
        flow.requests -= 1
        self._active -= not flow.requests
        flow.work = flow.work - seconds if flow.requests else 0.0  # drop rounding errors
        if self._heap:
            self.work -= seconds
        else:
            self.work = self._virtual = 0.0
            self.flows.clear()
        return item

    def ahead(self, caller: str) -> float:
        """Seconds of work that precede a request of the caller if it came now."""
        flow = self.flows.get(caller)
        if flow is not None and flow.requests == len(self._heap):
            return self.work
        start = max(0.0, flow.finish - self._virtual) if flow is not None else 0.0
        return sum(min(other.work, start) for other in self.flows.values() if other.requests)

    def _drop_idle(self) -> None:
        if len(self.flows) > MAX_IDLE + 2 * len(self._heap):
            kept = {caller: flow for caller, flow in self.flows.items() if flow.requests or flow.finish > self._virtual}
            self.flows = kept
