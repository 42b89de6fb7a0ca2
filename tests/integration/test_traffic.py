"""Traffic split and shadow: which version answers, which is scored, and what is recorded of both."""

import itertools
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from services.model.model_router import LoggedResult
from tests.bentos import break_request_function
from tests.conftest import wait_until
from tests.log_records import logged_records
from tests.workers import ROW, MakeVersion, Worker, move
from truecourse.serving import prediction_log

ENTITIES = [ROW | {"courier": f"c{i % 12:02d}", "depot": d, "id": d} for i in range(12) for d in ("north", "south")]


def test_the_challenger_answers_its_share_of_the_entities(make_version: MakeVersion) -> None:
    worker, second = Worker(), make_version(2)
    answered: dict[float, list[bool]] = {}
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        move(challenger=second.version, share=share)
        worker.step()
        alone = [worker.predict(row)["model"]["version"] == 2 for row in ENTITIES]
        assert alone == [worker.predict(row)["model"]["version"] == 2 for row in ENTITIES]
        answered[share] = alone
    shares = sorted(answered)
    for narrow, wide in itertools.pairwise(shares):
        assert all(w or not n for n, w in zip(answered[narrow], answered[wide], strict=True))
    assert not any(answered[0.0])
    assert all(answered[1.0])
    assert 0 < sum(answered[0.5]) < len(ENTITIES)
    move(challenger=second.version, share=0.5)
    worker.step()
    mixed = worker.predict(*ENTITIES)
    assert [answer.get("model", mixed["model"])["version"] == 2 for answer in mixed["predictions"]] == answered[0.5]
    assert [answer["id"] for answer in mixed["predictions"]] == [row["id"] for row in ENTITIES]
    scores = [worker.predict(row)["predictions"][0]["score"] for row in ENTITIES]
    assert [answer["score"] for answer in mixed["predictions"]] == scores


@pytest.mark.parametrize("count", [4, 24])
def test_explanations_are_the_same_for_split_and_single_rows(make_version: MakeVersion, count: int) -> None:
    worker, second = Worker(), make_version(2)
    move(challenger=second.version, share=0.5)
    worker.step()
    now, at = worker.router.split, datetime.now(UTC)
    assert now is not None
    sent = [row | {"distance": 1.5 + i} for i, row in enumerate(ENTITIES[:count])]

    def explained(*rows: dict[str, Any]) -> list[Any]:
        document, parts = worker.router.answer(now, now.champion.rows.accept_rows(rows, at), at, explain=True)
        assert all(orjson.dumps(entry) for part in parts for entry in part.entries())
        return [answer["contributions"] for answer in orjson.loads(orjson.dumps(document))["predictions"]]

    assert explained(*sent) == [one for row in sent for one in explained(row)]


def test_the_champion_answers_when_the_challenger_raises(
    make_version: MakeVersion, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    second = make_version(2, change=lambda source: break_request_function(source, "columns['distance'][0] == 13.0"))
    move(challenger=second.version, share=1.0)
    worker.step()
    assert worker.version == 2
    document = worker.predict(ROW | {"distance": 13.0})
    assert document["model"]["version"] == 1
    assert worker.router.status()["counts"] == {"challenger_failed": 1}
    (answered,), (failed,) = map(logged_records, worker.records[-2:])
    assert (answered["model_version"], answered["role"], answered["error"]) == (1, "champion", None)
    assert (failed["model_version"], failed["role"], failed["error"]) == (2, "shadow", "AssertionError")
    assert failed["prediction_id"] == answered["prediction_id"] == document["predictions"][0]["prediction_id"]
    assert failed["prediction"] is failed["score"] is None
    table = prediction_log.entries_table(map(prediction_log.encode_entry, worker.records[-1].entries()))
    assert table["prediction"].to_pylist() == [None]
    assert "version 2: challenger failed: AssertionError" in caplog.text


def test_a_shadow_is_recorded_and_does_not_answer(make_version: MakeVersion) -> None:
    worker, second = Worker(), make_version(2)
    move(challenger=second.version, shadow=True)
    worker.step()
    document = worker.predict(ROW, ROW | {"courier": "nobody"})
    assert document["model"]["version"] == 1
    wait_until(lambda: len(worker.records) == 2, 10, "the shadow")
    answer, shadow = map(logged_records, worker.records)
    assert [record["prediction_id"] for record in shadow] == [record["prediction_id"] for record in answer]
    assert {record["role"] for record in shadow} == {"shadow"}
    assert {record["model_sha256"] for record in shadow} == {second.version.model_sha256}
    assert [record["features"] for record in shadow] == [record["features"] for record in answer]
    assert shadow[0]["score"] != answer[0]["score"]
    assert worker.router.status()["counts"] == {"shadow_scored": 2}
    assert {(record["batch"], record["error"]) for record in answer + shadow} == {(2, None)}
    assert all(0 < record["seconds"] < 5 for record in answer + shadow)


def test_a_shadow_that_raises_is_recorded_once(make_version: MakeVersion) -> None:
    worker = Worker()
    second = make_version(2, change=lambda source: break_request_function(source, "columns['distance'][0] == 13.0"))
    move(challenger=second.version, shadow=True, share=1.0)
    worker.step()
    worker.predict(ROW | {"distance": 13.0})
    move(challenger=second.version, shadow=True)
    worker.step()
    worker.predict(ROW | {"distance": 13.0}, ROW)
    wait_until(lambda: len(worker.records) == 4, 10, "the shadow")
    errors = [[record["error"] for record in logged_records(part)] for part in worker.records]
    assert errors == [[None], ["AssertionError"], [None, None], ["AssertionError", "AssertionError"]]


def test_a_record_holds_the_inputs_of_the_answer(make_version: MakeVersion) -> None:
    worker = Worker()
    answers = worker.predict(ROW | {"id": "mine"}, ROW | {"courier": "nobody"})["predictions"]
    first, unknown = logged_records(worker.records[0])
    assert first["request"] == ROW | {"id": "mine"}
    assert (first["prediction_id"], first["score"], first["id"]) == (
        answers[0]["prediction_id"],
        answers[0]["score"],
        "mine",
    )
    assert first["features"]["depot"] == "north"
    events = first["event_times"]
    assert set(events) == {
        "courier_late_7d", "courier_count_7d", "depot_late_1d", "depot_last_took", "vehicle", "since"
    }  # fmt: skip
    assert "2024-02-23" < events["courier_late_7d"] <= ROW["decision_time"]
    assert events["courier_late_7d"].endswith("Z")
    assert unknown["event_times"]["courier_late_7d"] is None
    assert unknown["event_times"]["depot_late_1d"] == events["depot_late_1d"]


def test_a_failing_log_fails_no_answer(make_version: MakeVersion, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()

    def full(answered: LoggedResult) -> None:
        raise OSError("no space left")

    worker.router.record = full
    assert worker.version == 1
    assert "record failed: OSError" in caplog.text
