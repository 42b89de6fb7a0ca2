"""Locks in object storage: one holder at a time, and only while it is alive."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from truecourse.errors import StorageError
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store

HOLD = """
import time
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store
with locked(open_store(), "it", expiry=1):
    print("held", flush=True)
    time.sleep(99)
"""


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


def test_a_live_holder_keeps_it_and_a_killed_one_frees_it(home: Path) -> None:
    store = open_store()
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match="waited 2 s for a lock"), locked(store, "it", patience=2):
            pass  # twice its expiry has passed
    finally:
        holder.kill()
        holder.wait()
    killed = time.monotonic()
    with locked(store, "it", patience=10):
        assert time.monotonic() - killed < 5
