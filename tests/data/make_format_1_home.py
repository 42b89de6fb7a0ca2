"""Make format_1_home.tar.xz: a small home in stored format 1, written by the last release with that format.

Run it in a checkout of commit 038428b, whose code it uses, with that commit's environment:

    git worktree add --detach ../format-1 038428b && cd ../format-1
    PYTHONPATH=$PWD python ../truecourse/tests/data/make_format_1_home.py FOLDER ARCHIVE

The home has two promoted versions of the deliveries problem, scored and served predictions, a monitor run with an open
alert whose notification is pending, gate results, API keys, and MLflow's copy. Left out, since it is rebuilt or too
large: Bentos (the test packages again), pages, logs, Prefect's database and the files of servers.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

LEFT_OUT = re.compile(
    r"home/(prefect|logs|serving|tmp|spool|endpoints|flowruns|tuning|mlflow\.db-.*)(/|$)|home/storage/(locks|bentos/.*\.bento$)"
    r"|home/storage/reports/.*\.html$|.*\.log$|.*__pycache__.*"
)
PORT = 20917


def prepare(folder: Path) -> None:
    for name, value in {
        "HOME": folder / "home",
        "PROBLEMS": folder / "problems",
        "PROBLEM": "deliveries",
        "AUTHOR": "format-1",
        "ENDPOINT_PORT": PORT,
        "WEBHOOK": "http://127.0.0.1:9/unreachable",
    }.items():
        os.environ[f"TRUECOURSE_{name}"] = str(value)
    os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"
    importlib.import_module("truecourse.settings").prefect_environment()


def change(problem: Path, before: str, after: str) -> None:
    file = problem / "problem.py"
    text = file.read_text()
    assert before in text, before
    file.write_text(text.replace(before, after))


def flow(name: str, *arguments: object, **named: object) -> object:
    return getattr(importlib.import_module(f"flows.{name}"), name)(*arguments, **named)


def serve_some(rows: list[dict[str, object]]) -> None:
    command = [sys.executable, "-c", "from cli.main import main; main()", "serve", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        for path in ("predict", "predict", "explain"):
            body = json.dumps({"rows": rows}).encode()
            request = urllib.request.Request(f"{url}/{path}", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def main(folder: Path, archive: Path) -> None:
    prepare(folder)
    data = importlib.import_module("tests.deliveries")
    problem = data.install(folder / "problems", data.deliveries(days=60, a_day=30))
    change(problem, "gates=[BeatsBaseline(), BeatsChampion()]", "gates=[BeatsBaseline()]")
    change(problem, "    BeatsChampion,\n", "    Retraining,\n")
    change(problem, "rounds=200", "rounds=60")
    spoilers = 'retraining=Retraining(spoilers=["unit change"], budget=0)'
    change(problem, 'slices=["depot"])', f'slices=["depot"], {spoilers})')
    flow("lifecycle", "deliveries")
    assert importlib.import_module("truecourse.registry.versions").champion("deliveries").version == 1
    row = {"courier": "c03", "depot": "north", "promised": 42, "distance": 6.5}
    serve_some([row | {"id": number} for number in range(3)])
    change(problem, "rounds=60", "rounds=50")
    flow("lifecycle", "deliveries")
    assert importlib.import_module("truecourse.registry.versions").champion("deliveries").version == 2
    serve_some([row | {"id": number} for number in range(3, 6)])
    later = data.deliveries(days=20, a_day=30, seed=1, first=10_000)
    later["ordered_at"] = later["ordered_at"].str.replace("2024-01", "2024-03")
    later["distance"] = later["distance"] * 1.609  # a unit change, which the drift check finds
    later.to_csv(problem / "data" / "deliveries-2.csv", index=False)
    for name in ("ingest", "validate", "materialize", "score", "ship"):
        flow(name, "deliveries")
    importlib.import_module("truecourse.serving.api_keys").create("a client", ("predict",))
    time.sleep(1)
    flow("monitor", "deliveries")
    pack(folder, archive)


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix, path)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not LEFT_OUT.match(name):
                tar.add(path, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
