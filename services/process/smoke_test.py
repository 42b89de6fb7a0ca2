"""The smoke test of a server: the right model answers the contract's examples as the Bento's script does."""

import json
import math
import subprocess
import sys
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.process.client_url import open_url
from truecourse.deployment.inference_config import INFERENCE_FILE, InferenceConfig
from truecourse.errors import PlatformError
from truecourse.serving.contract import DECISION_TIME, Contract

TIMEOUT = 60.0
"""Seconds for one response."""
COMPARED = ("score", "scores", "prediction")
"""Fields of an answer that have to be equal."""


@dataclass(frozen=True)
class Examples:
    """Rows of a request, and the response of the Bento's script to them, run without a server."""

    rows: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]


def examples(folder: Path, environment: Mapping[str, str]) -> Examples:
    """Score the contract's examples with the script of an unpacked Bento. Raises PlatformError if the script fails."""
    contract = Contract.from_json((folder / "src" / "model" / "contract.json").read_bytes())
    now = datetime.now(UTC).isoformat()  # the same decision time for script and server
    rows = [({DECISION_TIME: now} if contract.has_time else {}) | dict(row) for row in contract.examples]
    if not rows:
        return Examples((), {})
    config = InferenceConfig.model_validate_json((folder / "src" / "model" / INFERENCE_FILE).read_bytes())
    module = config.script.removesuffix(".py").replace("/", ".")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", module], input=json.dumps({"rows": rows}), cwd=folder / "src",
        env={**environment, "PYTHONPATH": str(folder / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise PlatformError(f"its script fails on the examples of the contract\n{last}", where="the Bento")
    return Examples(rows, json.loads(done.stdout))


def test(url: str, model_sha256: str, examples: Examples) -> None:
    """Compare the server's model and answers with the expected ones. Raises PlatformError for a difference."""
    about = _request(f"{url}/model", None)
    if about.get("model_sha256") != model_sha256:
        raise PlatformError(f"it serves {about.get('model_sha256')}, expected {model_sha256}", where=f"{url}/model")
    if not examples.rows:
        return
    answer = _request(f"{url}/predict", {"rows": list(examples.rows)})
    if answer["model"]["sha256"] != model_sha256:
        raise PlatformError(f"{answer['model']['sha256']} answered, expected {model_sha256}", where=f"{url}/predict")
    for place, (got, expected) in enumerate(zip(answer["predictions"], examples.answer["predictions"], strict=True)):
        if not all(math.isfinite(number) for number in _numbers(got)):
            raise PlatformError(f"the score of example {place + 1} is not finite", where=f"{url}/predict")
        if _scores_of(got) != _scores_of(expected):
            what = f"example {place + 1} returns {_scores_of(got)}, the Bento's script {_scores_of(expected)}"
            raise PlatformError(what, where=f"{url}/predict")


def _scores_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in COMPARED if name in answer}


def _numbers(answer: Mapping[str, Any]) -> Iterator[float]:
    for value in [answer.get("score"), answer["prediction"], *answer.get("scores", {}).values()]:
        if isinstance(value, int | float):
            yield value


def _request(url: str, body: Any) -> Any:
    """Send a GET, or a POST of `body`; the JSON of the response."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with open_url(url, data, TIMEOUT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        body = error.read()[:300].decode(errors="replace")
        raise PlatformError(f"status {error.code}: {body}", where=url) from None
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError) as error:
        raise PlatformError(f"it does not answer: {error}", where=url) from None
