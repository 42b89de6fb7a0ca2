"""Locks in object storage: one holder at a time, and only while it is alive."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from truecourse.errors import StorageError
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store

HOLD = """
import sys
import time
from truecourse.storage import locks
from truecourse.storage.object_store import open_store
{setup}
with locks.locked(open_store(), "it", expiry={expiry}):
    print("held", flush=True)
    time.sleep(99)
"""


@contextmanager
def holder(expiry: float, setup: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock; it is killed at the end of the block."""
    program = HOLD.format(expiry=expiry, setup=setup)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_there_is_one_holder_at_a_time(home: Path) -> None:
    store, inside, most = open_store(), [], []

    def work() -> None:
        for _ in range(5):
            with locked(store, "it"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 20
    assert max(most) == 1
    assert len(list(store.list("locks/it/"))) == 1


@pytest.mark.parametrize("hours", [0, -24, 24])
def test_a_live_holder_keeps_it_whatever_its_clock_says(home: Path, hours: float) -> None:
    setup = f"wall = time.time; time.time = lambda: wall() + {hours * 3600}"
    refused = pytest.raises(StorageError, match="waited 2 s for a lock")
    with holder(expiry=1, setup=setup), refused, locked(open_store(), "it", patience=2):
        pass  # twice its expiry has passed


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(home: Path) -> None:
    with holder(expiry=60) as process:
        pass
    assert process.returncode is not None
    killed = time.monotonic()
    with locked(open_store(), "it", patience=10):
        assert time.monotonic() - killed < 5


@pytest.mark.parametrize("hours", [0, -24, 24])
def test_the_lock_of_a_killed_process_elsewhere_expires_whatever_its_clock_showed(home: Path, hours: float) -> None:
    setup = f"locks._machine = lambda: 'another'; wall = time.time; time.time = lambda: wall() + {hours * 3600}"
    with holder(expiry=3, setup=setup):
        pass
    killed = time.monotonic()
    with locked(open_store(), "it", patience=10):
        assert 2 < time.monotonic() - killed < 8


def test_a_lock_that_former_code_released_is_free(home: Path) -> None:
    open_store().put("locks/it/000000001", b'{"owner": "0a", "expires": 0}')
    with locked(open_store(), "it", patience=0):
        assert [*open_store().list("locks/it/")] == ["locks/it/000000002"]
