"""The prediction log, from a worker's memory to the table in object storage. Killed processes: test_killed_log.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.log.spool import Limits, Spool
from tasks.training.trace import trace_prediction
from tests.conftest import S3Server, wait_until
from tests.integration.conftest import Endpoint, Trained
from tests.log_records import Answers, entry, record
from truecourse.errors import ModelError, StorageError
from truecourse.serving import log_segments, log_shipping, prediction_log
from truecourse.serving.log_segments import SEALED, list_segments
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry, log_table
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables


def logged_ids() -> list[str]:
    tables = Tables()
    reference = tables.version(log_table("deliveries"))
    return [] if reference is None else tables.read(reference, ["prediction_id"])["prediction_id"].to_pylist()


def put(ids: list[str], folder: Path | None = None) -> None:
    spool = Spool(folder or spool_folder("deliveries"), encode_entry, Limits())
    spool.put(Answers(tuple(ids)))
    spool.close()


def test_a_shipper_killed_after_its_commit_duplicates_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(["a", "b"])
    (segment,) = list_segments(spool_folder("deliveries"), SEALED)
    data = segment.path(SEALED).read_bytes()
    assert ship("deliveries").records == 2
    segment.path(SEALED).write_bytes(data)
    assert ship("deliveries") == log_shipping.Shipment()
    assert sorted(logged_ids()) == ["a", "b"]
    assert list_segments(spool_folder("deliveries"), SEALED) == []


NEWER = ["seconds", "batch", "error", "view_event_times", "view_features"]
"""The columns that logs of older versions lack."""


def test_a_log_without_a_new_column_gets_it(home: Path) -> None:
    names = [name for name in prediction_log.SCHEMA.names if name not in NEWER]
    older = prediction_log.entries_table([encode_entry(entry(record("a")))]).select(names)
    Tables().append(log_table("deliveries"), older, {"flow": "ship"}, partition_by=prediction_log.PARTITION)
    put(["b"])
    assert ship("deliveries").records == 1
    newest = Tables().version(log_table("deliveries"))
    assert newest is not None
    assert Tables().dataset(newest).schema.names[-len(NEWER) :] == NEWER
    assert sorted(logged_ids()) == ["a", "b"]


def test_the_log_catches_up_after_storage_was_down(
    home: Path, configure: Callable[..., None], seaweed: S3Server
) -> None:
    put(["a"])
    configure(**seaweed.settings("log") | {"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StorageError):
        ship("deliveries")
    spool = Spool(spool_folder("deliveries"), encode_entry)
    assert spool.status().shipping_error
    assert spool.status().lag_seconds > 0
    configure(**seaweed.settings("log"))
    put(["b"])
    assert ship("deliveries").records == 2
    assert spool.status().healthy
    assert spool.status().lag_seconds == 0
    put(["c"])
    ship("deliveries")
    assert sorted(logged_ids()) == ["a", "b", "c"]


def test_a_damaged_segment_is_kept_and_reported(home: Path) -> None:
    put(["a"])
    (segment,) = list_segments(spool_folder("deliveries"), SEALED)
    intact = segment.path(SEALED).read_bytes()
    segment.path(SEALED).write_bytes(intact + log_segments.frame_record(b"{}")[:-1] + b"x")
    (damaged,) = ship("deliveries").damaged
    assert Path(damaged).read_bytes().startswith(intact)
    assert logged_ids() == ["a"]
    assert ship("deliveries").segments == 0


def test_a_record_is_found_with_its_fields(home: Path) -> None:
    put(["a", "b"])
    ship("deliveries")
    (found,) = prediction_log.find_records(Tables(), "deliveries", "b")
    assert (found["features"], found["day"], found["id"]) == ({"distance": 4.2, "hour": 12}, "2024-05-01", "7")
    assert prediction_log.find_records(Tables(), "deliveries", "c") == []
    assert get_settings().home in spool_folder("deliveries").parents


def test_many_shipments_are_compacted(home: Path) -> None:
    for id in "abc":
        put([id])
        ship("deliveries")
    assert Tables().compact(log_table("deliveries")) == 3
    put(["d"])
    ship("deliveries")
    assert sorted(logged_ids()) == list("abcd")


def test_every_answer_of_the_endpoint_is_logged_and_traced(endpoint: Endpoint, trained: Trained) -> None:
    row = {"courier": "c03", "depot": "north", "promised": 45, "distance": 4.2}
    response = endpoint.post("/explain", row | {"id": "mine", "decision_time": "2024-03-01T06:30:00Z"})
    (answer,) = response.json()["predictions"]

    def shipped() -> bool:
        ship("deliveries")
        return bool(prediction_log.find_records(Tables(), "deliveries", answer["prediction_id"]))

    wait_until(shipped, 60, "the record")
    traced = trace_prediction("deliveries", answer["prediction_id"])
    stored = traced["prediction"]
    assert traced["verified"]
    assert traced["links"][0]["link"] == "prediction"
    assert (stored["score"], stored["prediction"], stored["id"]) == (
        answer["score"],
        answer["prediction"],
        "mine",
    )
    assert (stored["role"], stored["model_sha256"]) == ("champion", trained.version.model_sha256)
    assert {name: stored["request"][name] for name in row} == row
    assert stored["contributions"] == answer["contributions"]
    assert stored["features"]["vehicle"] == "van"
    assert stored["event_times"]["courier_late_7d"] < "2024-03-01T06:30:00Z"
    with pytest.raises(ModelError, match="no such prediction"):
        trace_prediction("deliveries", "nobody")
