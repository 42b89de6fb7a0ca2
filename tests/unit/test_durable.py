"""After a loss of power, only unsynced data is lost: no stored object and no shipped record."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from services.log.spool import Spool
from tests.log_records import Answers
from truecourse.serving.log_segments import SEALED, Segment, list_segments
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry, log_table
from truecourse.storage.delta_tables import Tables
from truecourse.storage.fsync import CHECKPOINT, LOG, remove_torn_commits
from truecourse.storage.object_store import LocalStore


def put(*ids: str) -> None:
    spool = Spool(spool_folder("deliveries"), encode_entry)
    spool.put(Answers(ids))
    spool.close()


def logged() -> list[str]:
    reference = Tables().version(log_table("deliveries"))
    return [] if reference is None else sorted(Tables().read(reference)["prediction_id"].to_pylist())


class Disk:
    """A simulated disk that holds only what this process has synced: bytes of files, names of folders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files, self.folders = dict[int, bytes](), dict[int, dict[str, Path]]()
        fsync = os.fsync

        def recorded(descriptor: int) -> None:
            fsync(descriptor)
            path, inode = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor).st_ino
            if path.is_dir():
                self.folders[inode] = {entry.name: entry for entry in path.iterdir()}
            else:
                self.files[inode] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", recorded)

    def restore(self, folder: Path, place: Path) -> None:
        """Write what `folder` would hold after a loss of power to `place`."""
        place.mkdir()
        for name, path in self.folders.get(folder.stat().st_ino, {}).items():
            if path.is_dir():
                self.restore(path, place / name)
            elif path.exists():
                (place / name).write_bytes(self.files.get(path.stat().st_ino, b""))


def test_no_segment_is_removed_before_its_rows_are_synced(
    home: Path, tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, remove, images = Disk(monkeypatch), Segment.remove, list[Path]()

    def removed(segment: Segment) -> None:
        images.append(tmp_path / f"image{len(images)}")
        disk.restore(home / "storage", images[-1])
        remove(segment)

    monkeypatch.setattr(Segment, "remove", removed)
    for ids in (["a", "b"], ["c"]):
        put(*ids)
        ship("deliveries")
    assert list_segments(spool_folder("deliveries"), SEALED) == []
    for image, expected in zip(images, (["a", "b"], ["a", "b", "c"]), strict=True):
        configure(storage=image)
        assert logged() == expected


def test_nothing_is_synced_with_the_setting_off(
    home: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(durable=False)
    disk = Disk(monkeypatch)
    put("a", "b")
    ship("deliveries")
    LocalStore(home / "storage").put("reports/a.json", b"{}")
    assert logged() == ["a", "b"]
    assert not disk.files
    assert not disk.folders
    configure(durable=True)
    LocalStore(home / "storage").put("reports/b.json", b"{}")
    assert list(disk.files.values()) == [b"{}"]


@pytest.mark.parametrize("how", ["put", "put_new", "upload"])
def test_an_object_survives_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    disk, root = Disk(monkeypatch), tmp_path / "storage"
    root.mkdir()
    (tmp_path / "file").write_bytes(b"whole")
    store = LocalStore(root)
    for number, key in enumerate(("models/flights/1.json", "models/flights/2.json", "models/tips/1.json")):
        if how == "upload":
            store.upload(key, tmp_path / "file")
        else:
            getattr(store, how)(key, b"whole")
        image = tmp_path / f"image{number}"
        disk.restore(root, image)
        assert (image / key).read_bytes() == b"whole"


@pytest.mark.parametrize("torn", ["commit", "rows", "both", "neither"])
def test_a_torn_commit_is_shipped_again(home: Path, torn: str) -> None:
    put("a")
    ship("deliveries")
    put("b", "c")
    (segment,) = list_segments(spool_folder("deliveries"), SEALED)
    kept = segment.path(SEALED).read_bytes()
    ship("deliveries")
    segment.path(SEALED).write_bytes(kept)  # it had not been removed yet
    table = home / "storage" / log_table("deliveries")
    if torn in ("commit", "both"):
        os.truncate(table / LOG / f"{1:020d}.json", 0)
    if torn in ("rows", "both"):
        newest = max(table.glob("*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(bytes(newest.stat().st_size))  # as large as it was, and zeros
    assert ship("deliveries").records == (0 if torn == "neither" else 2)
    assert logged() == ["a", "b", "c"]
    assert list_segments(spool_folder("deliveries"), SEALED) == []


def test_a_torn_checkpoint_is_ignored(home: Path) -> None:
    put("a")
    ship("deliveries")
    table = home / "storage" / log_table("deliveries")
    Tables().open(log_table("deliveries")).create_checkpoint()
    (checkpoint,) = table.glob(f"{LOG}/*.checkpoint.parquet")
    os.truncate(checkpoint, 0)
    assert remove_torn_commits(table) == []
    assert not (table / LOG / CHECKPOINT).exists()
    assert logged() == ["a"]
    put("b")
    assert ship("deliveries").records == 1
    assert logged() == ["a", "b"]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x1c", "\v"])
def test_a_line_separator_in_statistics_does_not_tear_a_commit(home: Path, sign: str) -> None:
    store = Tables()
    version = store.append("tables/small/notes", pa.table({"note": [f"z{sign}last"]}), {"flow": "test"})
    assert store.remove_torn_commits("tables/small/notes") == []
    assert store.read(version)["note"].to_pylist() == [f"z{sign}last"]
