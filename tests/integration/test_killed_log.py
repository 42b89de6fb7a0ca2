"""Writers and shippers of the prediction log are killed at random: nothing synced is lost, and nothing doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, S3Server, wait_until
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import log_table
from truecourse.settings import child_environment
from truecourse.storage.tables import Tables

SYNC = 0.02
PARENT = """
import json, os, signal, sys, time
from pathlib import Path

from services.log.spool import Spool
from services.log.spool_types import Limits
from tests.records import Answers
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry


def write(told, begun, sync):
    spool = Spool(spool_folder("deliveries"), encode_entry, Limits(sync=float(sync), size=20_000, age=0.1))
    spool.start()
    with open(told, "w", buffering=1) as file:
        for number in range(1_000_000):
            written = spool._written
            spool.put(Answers((f"{begun}-{number}",)))
            file.write(f"{number} {written} {time.monotonic()}\\n")
            time.sleep(0.0005)


def keep_shipping():
    while True:
        ship("deliveries")


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if not child:
        words = line.split()
        {"write": write, "ship": keep_shipping}[words[0]](*words[1:])
    print(child, flush=True)
"""
"""Forks the processes that are killed: to start Python takes longer than a round. It uses no table itself, since
delta-rs works in no fork of a process that did."""


class Parent:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env=child_environment(),
        )  # fmt: skip

    def fork(self, *words: object) -> int:
        """A child that does this until it is killed; its process id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def killed_round(
    number: int, parent: Parent, randomness: random.Random, longest: float, folder: Path
) -> tuple[set[str], list[float]]:
    """A writer under load and a shipper, both killed: the records that were synced, and, at each put, how many seconds
    old the oldest record was that was not."""
    told = folder / f"{number}.told"
    writer, shipper = parent.fork("write", told, number, SYNC), parent.fork("ship")
    wait_until(lambda: told.exists() and told.stat().st_size > 0, 20, "the writer")
    time.sleep(randomness.uniform(0.02, longest))
    for process in randomness.sample([writer, shipper], 2):
        os.kill(process, signal.SIGKILL)
        time.sleep(randomness.uniform(0, 0.02))
    wait_until(lambda: not lives(writer) and not lives(shipper), 20, "their end")
    lines = [line.split() for line in told.read_text().splitlines(keepends=True) if line.endswith("\n")]
    moments = {int(place): float(at) for place, _, at in lines}
    ages = [float(at) - moments.get(int(written), float(at)) for _, written, at in lines]
    return {f"{number}-{place}" for place in range(int(lines[-1][1]) if lines else 0)}, ages


@pytest.mark.parametrize(("root", "rounds", "longest"), [("folder", 50, 0.35), ("s3", 10, 1.0)])
def test_killed_writers_and_shippers_lose_and_duplicate_nothing(
    root: str,
    rounds: int,
    longest: float,
    home: Path,
    tmp_path: Path,
    configure: Callable[..., None],
    seaweed: S3Server,
) -> None:
    if root == "s3":
        configure(**seaweed.settings("killed"))
    randomness, synced, ages, parent = random.Random(7), set[str](), list[float](), Parent()
    try:
        for number in range(rounds):
            certain, waited = killed_round(number, parent, randomness, longest, tmp_path)
            synced |= certain
            ages += waited
    finally:
        parent.process.kill()
        parent.process.communicate()
    table, tables = log_table("deliveries"), Tables()
    before = tables.version(table)
    assert before is not None
    assert before.version >= rounds // 5, "hardly a shipper came to ship before it was killed"
    ship("deliveries")
    newest = tables.version(table)
    assert newest is not None
    found = tables.read(newest, ["prediction_id"])["prediction_id"].to_pylist()
    assert len(found) == len(set(found)), "doubled"
    assert synced <= set(found), "lost"
    assert len(synced) > 20 * rounds
    assert not any(spool_folder("deliveries").glob("*.damaged"))
    # The rest of the promise: what is older than the interval is synced, but for the time that a sync takes.
    assert sorted(ages)[len(ages) * 9 // 10] < SYNC + 0.2
