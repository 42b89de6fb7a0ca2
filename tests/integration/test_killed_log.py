"""Writers and shippers of the prediction log are killed at random: no synced record is lost or duplicated."""

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
from truecourse.storage.delta_tables import Tables

SYNC = 0.02
PARENT = """
import json, os, signal, sys, time
from pathlib import Path

from services.log.spool import Spool
from services.log.spool import Limits
from tests.log_records import Answers
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry


def write(progress, begun, sync):
    spool = Spool(spool_folder("deliveries"), encode_entry, Limits(sync=float(sync), size=20_000, age=0.1))
    spool.start()
    with open(progress, "w", buffering=1) as file:
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
"""Forks the processes that are killed: starting Python takes longer than a round. It uses no table itself: delta-rs
does not work in a fork of a process that has used it."""


class Parent:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env=child_environment(),
        )  # fmt: skip

    def fork(self, *words: object) -> int:
        """Fork a child that runs a function until it is killed; its process id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_round(
    number: int, parent: Parent, randomness: random.Random, longest: float, folder: Path
) -> tuple[set[str], list[float]]:
    """Run a writer under load and a shipper, and kill both.

    Returns the ids of the synced records, and at each put the age in seconds of the oldest record not yet synced."""
    progress = folder / f"{number}.progress"
    writer, shipper = parent.fork("write", progress, number, SYNC), parent.fork("ship")
    wait_until(lambda: progress.exists() and progress.stat().st_size > 0, 20, "the writer")
    time.sleep(randomness.uniform(0.02, longest))
    for process in randomness.sample([writer, shipper], 2):
        os.kill(process, signal.SIGKILL)
        time.sleep(randomness.uniform(0, 0.02))
    wait_until(lambda: not is_alive(writer) and not is_alive(shipper), 20, "their end")
    lines = [line.split() for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
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
            certain, waited = kill_round(number, parent, randomness, longest, tmp_path)
            synced |= certain
            ages += waited
    finally:
        parent.process.kill()
        parent.process.communicate()
    table, tables = log_table("deliveries"), Tables()
    before = tables.version(table)
    assert before is not None
    assert before.version >= rounds // 5, "too few shippers shipped before they were killed"
    ship("deliveries")
    newest = tables.version(table)
    assert newest is not None
    logged = tables.read(newest, ["prediction_id"])["prediction_id"].to_pylist()
    assert len(logged) == len(set(logged)), "doubled"
    assert synced <= set(logged), "lost"
    assert len(synced) > 20 * rounds
    assert not any(spool_folder("deliveries").glob("*.damaged"))
    # Records older than the interval are synced, apart from the duration of a sync.
    assert sorted(ages)[len(ages) * 9 // 10] < SYNC + 0.2
