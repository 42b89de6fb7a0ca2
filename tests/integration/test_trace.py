"""Whatever single byte is changed, the trace names the link that it broke."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.snapshot import build_snapshot
from tasks.trace import reproduce, trace_model
from tasks.train import train_model
from tests.frames import store_wine
from truecourse import registry
from truecourse.errors import ModelError
from truecourse.loading import load_problem, problem_digest, problem_document
from truecourse.references import ModelVersion, Snapshot
from truecourse.runs import artifact_key
from truecourse.snapshot import Input, Manifest, load_frame, load_manifest, save
from truecourse.storage import open_store
from truecourse.tables import Tables, feature_table

DOCUMENTS = ("model/vocabulary", "model/contract", "model/problem", "training")


@dataclass(frozen=True)
class Line:
    version: ModelVersion
    snapshot: Snapshot


@pytest.fixture
def line(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Line:
    """A registered model of the wines, its snapshot made of a feature table as well."""
    configure(problems=tmp_path / "problems", problem="wine")
    (tmp_path / "problems").mkdir()
    clean = store_wine(tmp_path / "problems")
    tables, problem = Tables(), load_problem()
    plain = build_snapshot(problem, tables, clean=clean, features={})
    view = tables.append(
        feature_table("wine", "facts"),
        pa.table({"key": [1, 2, 3]}),
        {"flow": "materialize", "inputs": [reference.model_dump() for reference in clean.values()]},
    )
    inputs = (
        Input(name="facts", role="features", table=view, files=tables.digests(view)),
        *load_manifest(tables.store, plain).inputs,
    )
    frame = load_frame(tables.store, plain).slice(1)
    manifest = Manifest(
        problem="wine",
        problem_digest=problem_digest(problem),
        document=problem_document(problem),
        until=None,
        rows={"decisions": len(frame), "train": 1, "validate": 1, "test": 1},
        columns={},
        inputs=inputs,
    )
    snapshot = save(tables.store, frame, manifest)
    return Line(registry.create_version(train_model.fn("wine", snapshot)), snapshot)


def test_an_untouched_line_is_verified_to_its_sources(line: Line) -> None:
    trace = trace_model("wine", 1)
    assert trace["verified"]
    assert all(link["verified"] and link["detail"] for link in trace["links"])
    assert list(dict.fromkeys(link["link"] for link in trace["links"])) == [
        "version", "artifact", "model", "snapshot", "manifest", "inputs", "feature table", "clean table", "raw table",
        "source",
    ]  # fmt: skip
    with pytest.raises(ModelError, match="no version 2"):
        trace_model("wine", 2)


@contextmanager
def flipped(path: Path, find: bytes = b"") -> Iterator[None]:
    """One bit of a file's middle byte changed, or of the byte after `find`; then put back."""
    before = path.read_bytes()
    data = bytearray(before)
    place = data.index(find) + len(find) if find else len(data) // 2
    data[place] ^= 1
    path.write_bytes(bytes(data))
    yield
    path.write_bytes(before)


def stored(key: str) -> Path:
    return Path(open_store().root) / key


def test_one_flipped_byte_of_any_stored_object_breaks_its_link(line: Line, tmp_path: Path) -> None:
    (clean,) = stored("tables/wine/clean/wines").glob("*.parquet")
    (raw,) = stored("tables/wine/raw/wines").glob("*.parquet")
    (feature,) = stored("features/wine/facts").glob("*.parquet")
    log = stored("tables/wine/raw/wines/_delta_log/00000000000000000000.json")
    run = line.version.run_id
    cases = [
        (stored(artifact_key(run, "model/model.ubj")), b"", "model"),
        *(
            (stored(artifact_key(run, f"model/{n}.json")), b"", "artifact")
            for n in ("vocabulary", "contract", "problem")
        ),
        (stored(artifact_key(run, "training.json")), b"", "artifact"),
        (stored(artifact_key(run, "lineage.json")), b"sha256", "artifact"),
        (stored(line.snapshot.frame_key), b"", "snapshot"),
        (stored(line.snapshot.manifest_key), b"", "manifest"),
        (clean, b"", "clean table"),
        (raw, b"", "raw table"),
        (feature, b"", "feature table"),
        (log, b'\\"sha256\\": \\"', "raw table"),
        (kept_source(), b"", "source"),
    ]
    for path, find, link in cases:
        with flipped(path, find):
            trace = trace_model("wine", 1)
        broken = [item for item in trace["links"] if not item["verified"]]
        assert not trace["verified"], path
        assert broken[0]["link"] == link, path
        assert path.name in broken[0]["id"] or path.name in broken[0]["detail"] or "commits" in broken[0]["detail"], (
            path
        )
    assert trace_model("wine", 1)["verified"]


def kept_source() -> Path:
    (path,) = stored("sources/wine/wines").iterdir()
    return path


def test_lost_objects_break_their_links_too(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "problems" / "wine" / "data" / "wines.parquet"
    file.write_bytes(file.read_bytes() + b"!")
    assert trace_model("wine", 1)["verified"], "the bytes that were read are kept"
    kept_source().unlink()
    (link,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert "at its place is" in link["detail"]
    file.unlink()
    (link,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert link["link"] == "source"
    assert "neither kept nor there; recorded: SHA-256" in link["detail"]
    stored(line.snapshot.manifest_key).unlink()
    broken = [item["link"] for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert broken == ["manifest", "inputs"]


def test_a_model_is_rebuilt_byte_for_byte_from_its_tables(
    tmp_path: Path, home: Path, configure: Callable[..., None]
) -> None:
    configure(problems=tmp_path, problem="wine")
    clean = store_wine(tmp_path)
    snapshot = build_snapshot(load_problem(), Tables(), clean=clean, features={})
    version = registry.create_version(train_model.fn("wine", snapshot))
    for key in (snapshot.frame_key, snapshot.manifest_key):
        kept = open_store().get(key)
        assert kept
    open_store().delete(snapshot.frame_key)  # it is rebuilt, not read
    Tables().append(next(iter(clean.values())).name, Tables().read(next(iter(clean.values()))).slice(0, 9), {})
    configure(threads=1)
    found = reproduce("wine", version.version)
    assert found["identical"]
    assert found["rebuilt_sha256"] == found["recorded_sha256"] == version.model_sha256
    assert found["snapshot"]["identical"]
    assert all(then == now for then, now in found["versions"].values())
    file = tmp_path / "wine" / "problem.py"
    file.write_text(file.read_text().replace("max_depth=3", "max_depth=4"))
    with pytest.raises(ModelError, match="the problem was changed since"):
        reproduce("wine", version.version)
    assert json.loads(registry.artifact(version.run_id, "training.json"))["parameters"]["max_depth"] == 3
