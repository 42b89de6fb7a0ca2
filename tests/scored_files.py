"""Score a file by the flow, for tests of its result."""

from pathlib import Path
from typing import Any

from flows.score import score
from truecourse.references import FileScores


def score_file(problem: str, file: Path, **options: Any) -> FileScores:
    result = score(problem, source=str(file), **options)
    assert isinstance(result, FileScores)
    return result
