"""Lineage and reproduction: completeness and cost of a trace, and reproduction of a version.

All of it runs in a copy of the home at another path, since a home can be moved as a folder.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, measure
from benchmarks.home import copied_home, ensure_steps
from truecourse.settings import get_settings

TRACE_CPU = 6.0
"""Maximum CPU seconds of a trace of the flights model, without process start."""


def rows(quick: bool) -> list[Row]:
    """Trace and reproduce the champion; with `quick` from the feature tables only."""
    problem = ensure_steps("score").name
    with copied_home() as home:
        traced = measure("benchmarks.truth.lineage:trace", home=home, problem=problem)
        broken = measure("benchmarks.truth.lineage:break_links", home=home, problem=problem).result
        starts = ("features",) if quick else ("features", "clean", "source")
        reproductions = {
            start: measure("benchmarks.truth.lineage:reproduce", home=home, problem=problem, start=start)
            for start in starts
        }
    return [*_trace_rows(traced.result, traced.cpu, broken), *_reproduction_rows(reproductions)]


def _trace_rows(traced: dict[str, Any], cpu: float, broken: dict[str, list[str]]) -> Iterator[Row]:
    unverified = len(traced["unverified"])
    yield Row(what=f"links of {traced['links']} not verified in a moved home", value=unverified, unit="", limit=0)
    missed, kinds = len(broken["missed"]), len(broken["missed"]) + len(broken["found"])
    yield Row(what=f"kinds of {kinds} links whose changed byte is not detected", value=missed, unit="", limit=0)
    yield Row(what="trace of a model, CPU", value=cpu, unit="s", limit=TRACE_CPU)


def _reproduction_rows(reproductions: dict[str, Any]) -> Iterator[Row]:
    for start, measured in reproductions.items():
        different = 0 if measured.result["identical"] else 1
        yield Row(what=f"not byte for byte the same, from {start}", value=different, unit="", limit=0)
        links = len(measured.result["unverified"])
        yield Row(what=f"links not verified, from {start}", value=links, unit="", limit=0)
        yield Row(what=f"reproduced from {start}", value=measured.seconds, unit="s")


def trace(problem: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        from tasks.training.trace import trace_model
        from truecourse.registry import versions as registry

        champion = registry.champion(problem)
        assert champion is not None
        links = trace_model(problem, champion.version)["links"]
        return {"links": len(links), "unverified": _unverified(links)}

    return run


def reproduce(problem: str, start: Any) -> Callable[[], dict[str, Any]]:
    from tasks.training.reproduce import reproduce as reproduce_version
    from truecourse.registry import versions as registry

    champion = registry.champion(problem)
    assert champion is not None
    number = champion.version

    def run() -> dict[str, Any]:
        found = reproduce_version(problem, number, start)
        return {"identical": found["identical"], "unverified": _unverified(found["links"])}

    return run


def _unverified(links: list[dict[str, Any]]) -> list[str]:
    return [f"{link['link']} {link['id']}: {link['detail']}" for link in links if not link["verified"]]


def break_links(problem: str) -> Callable[[], dict[str, list[str]]]:
    """For each kind of link, change one byte of its object, trace, and restore the object."""
    from tasks.training.trace import trace_model
    from truecourse.registry import versions as registry

    champion = registry.champion(problem)
    assert champion is not None
    number = champion.version

    def run() -> dict[str, list[str]]:
        links = {link["link"]: link for link in trace_model(problem, number)["links"]}
        found: dict[str, list[str]] = {"found": [], "missed": []}
        for kind, link in links.items():
            path = _object_of(problem, link)
            if path is None:
                continue
            before = path.read_bytes()
            data = bytearray(before)
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data))
            broken = {one["link"] for one in trace_model(problem, number)["links"] if not one["verified"]}
            path.write_bytes(before)
            found["found" if kind in broken else "missed"].append(kind)
        return found

    return run


def _object_of(problem: str, link: dict[str, Any]) -> Path | None:
    """A file of a link; None for a link without its own file, or in MLflow's database."""
    root, kind = Path(get_settings().storage_root), str(link["link"])
    folders = {
        "version": f"models/{problem}/versions",
        "gate results": f"models/{problem}/gates",
        "alias ledger": f"aliases/{problem}",
        "deployment history": f"deployments/{link['id']}/{problem}",
        "MLflow artifacts": f"mlflow/{link['id']}/artifacts/model",
        "validation report": f"reports/{problem}/validation/{link['id'].rpartition('@')[0].rpartition('/')[2]}",
    }
    if kind == "unpacked Bento":
        return next(path for path in sorted(Path(link["id"]).rglob("*.py")) if path.stat().st_size)
    if kind == "source":
        return root / str(link["detail"]).rpartition("archived as ")[2]
    if kind in folders:
        return next(path for path in sorted((root / folders[kind]).glob("*")) if path.is_file())
    if kind.endswith(" table"):
        return next((root / link["id"].rpartition("@")[0]).glob("*.parquet"), None)
    path = root / str(link["id"])
    return path if path.is_file() else None
