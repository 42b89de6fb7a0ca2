"""The object store on a folder and on a real S3 server."""

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import S3Server
from truecourse.errors import AccessDenied, AlreadyExists, NotFound, SettingsError, StorageError
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, open_store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, configure: Callable[..., None], tmp_path: Path) -> ObjectStore:
    configure(home=tmp_path / "home")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("seaweed")
        configure(**server.settings(prefix=tmp_path.name))
    return open_store()


def test_an_object_is_read_as_it_was_written(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a/b.bin", b"\x00one")
    store.put("a/b.bin", b"two")
    assert store.get("a/b.bin") == b"two"
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    store.upload("a/c.bin", tmp_path / "file")
    store.download("a/c.bin", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"x" * 3_000_000
    assert list(store.list("a/")) == ["a/b.bin", "a/c.bin"]
    assert list(store.list("a/", "a/b.bin")) == ["a/c.bin"]
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    assert store.exists("a/c.bin")


def test_a_missing_object_is_an_error_that_names_it(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store.get("nowhere")


def test_one_of_eight_concurrent_writers_creates_the_object(store: ObjectStore) -> None:
    for round_number in range(5):
        outcomes: list[int] = []

        def race(racer: int, key: str = f"lock/{round_number}", outcomes: list[int] = outcomes) -> None:
            try:
                store.put_new(key, str(racer).encode())
            except AlreadyExists:
                return
            outcomes.append(racer)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        assert store.get(f"lock/{round_number}") == str(outcomes[0]).encode()


def test_keys_stay_below_the_root(home: Path) -> None:
    with pytest.raises(StorageError, match="leaves"):
        open_store().put("../outside", b"")


def test_delta_tables_have_versions_and_commit_metadata(store: ObjectStore) -> None:
    tables = Tables()
    first = tables.append("tables/p/raw/t", pa.table({"a": [1, 2]}), {"sources": ["x"]})
    second = tables.append("tables/p/raw/t", pa.table({"a": [3]}), {"sources": ["y"]})
    assert tables.read(first)["a"].to_pylist() == [1, 2]
    assert sorted(tables.read(second)["a"].to_pylist()) == [1, 2, 3]
    assert tables.commits("tables/p/raw/t") == [(0, {"sources": ["x"]}), (1, {"sources": ["y"]})]
    assert set(tables.digests(first)) < set(tables.digests(second))
    with pytest.raises(NotFound):
        tables.open("tables/p/raw/other")


def test_the_newest_version_is_seen_after_other_processes_append_remove_and_write_again(store: ObjectStore) -> None:
    tables, others, rows = Tables(), Tables(), pa.table({"a": [1]})

    def newest() -> int | None:
        version = tables.version("t")
        return None if version is None else version.version

    assert newest() is None
    for number in range(13):  # beyond a checkpoint
        others.append("t", rows, {})
        assert newest() == number
    for written in (3, 20):  # fewer commits than before, and more
        for key in list(store.list("t/")):
            store.delete(key)
        assert newest() is None
        assert not tables.exists("t")
        for _ in range(written):
            others.append("t", rows, {})
        assert newest() == written - 1


def test_concurrent_appends_lose_no_row(store: ObjectStore) -> None:
    tables = Tables()
    tables.append("t", pa.table({"a": [-1]}), {})
    threads = [threading.Thread(target=tables.append, args=("t", pa.table({"a": [n]}), {})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version = tables.version("t")
    assert version is not None
    assert sorted(tables.read(version)["a"].to_pylist()) == list(range(-1, 8))


def test_bad_credentials_are_an_error_that_names_the_setting(seaweed: S3Server, configure: Callable[..., None]) -> None:
    configure(**seaweed.settings("p") | {"s3_secret_access_key": "wrong"})
    with pytest.raises(AccessDenied, match="TRUECOURSE_S3_SECRET_ACCESS_KEY"):
        open_store().put("x", b"")
    with pytest.raises(AccessDenied, match="TRUECOURSE_S3_SECRET_ACCESS_KEY"):
        Tables().append("t", pa.table({"a": [1]}), {})


def test_a_root_of_another_kind_is_refused(configure: Callable[..., None]) -> None:
    configure(storage="gs://bucket")
    with pytest.raises(SettingsError, match="gs://bucket"):
        open_store()
