"""Formats of stored records and storages: numbers, former names, and refusal of newer ones."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from truecourse.data.validation_report import ValidationResult
from truecourse.errors import AccessDenied, FormatError
from truecourse.hashing import sha256
from truecourse.monitoring.alerts.alert_record import Alarm, Notification, Record
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.problem import Retraining
from truecourse.problem.loader import declaration_document
from truecourse.references import Aliases, Deployment, Entry, Package
from truecourse.registry.runs import RunRecord
from truecourse.registry.versions import GateRecord, RegisteredVersion
from truecourse.serving.api_keys import Keys
from truecourse.storage.format import StorageFormat, get_stored, open_format, read_format, refuse_newer_format
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import LocalStore
from truecourse.stored_format import FORMAT, current_key, former_key, read_numbered, with_former_names

AT = datetime(2026, 11, 1, tzinfo=UTC)
ENTRY = {"number": 1, "action": "promote", "reason": "r", "author": "a", "at": "2026-11-01T00:00:00Z"}
FINDING = {"check": "drift", "subject": "distance", "cause": "unit change", "page": True, "sentence": "It changed."}
NEWER = FORMAT + 1


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "storage")


def text(document: Any) -> bytes:
    return json.dumps(document).encode()


def stored_format(store: LocalStore) -> dict[str, int]:
    found: dict[str, int] = json.loads(store.get("format.json"))
    return found


def test_a_new_storage_gets_todays_format(store: LocalStore) -> None:
    assert read_format(store) == StorageFormat(format=FORMAT, oldest=FORMAT)
    assert not list(store.list("")), "reading writes nothing"
    assert open_format(store).is_migrated
    assert stored_format(store) == {"format": FORMAT, "oldest": FORMAT}


def test_records_without_a_number_make_a_storage_of_format_1(store: LocalStore) -> None:
    store.put("aliases/wine/000000001.json", b"{}")
    assert read_format(store) == StorageFormat(format=1, oldest=1)
    opened = open_format(store)
    assert (opened, opened.is_migrated) == (StorageFormat(format=FORMAT, oldest=1), False)
    assert open_format(store) == opened
    assert stored_format(store) == {"format": FORMAT, "oldest": 1}


def test_a_storage_of_a_newer_format_is_refused(store: LocalStore) -> None:
    store.put("format.json", text({"format": NEWER, "oldest": NEWER}))
    for check in (read_format, open_format, refuse_newer_format):
        with pytest.raises(FormatError, match=f"format {NEWER} by a newer Truecourse.* up to {FORMAT}") as caught:
            check(store)
        assert (caught.value.where, caught.value.hint) == (store.root, "upgrade Truecourse")
    assert stored_format(store) == {"format": NEWER, "oldest": NEWER}


def test_a_storage_that_may_only_be_read_is_opened(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("aliases/wine/000000001.json", b"{}")

    def refuse(key: str, data: bytes) -> None:
        raise AccessDenied("read only", where=key)

    monkeypatch.setattr(store, "put_new", refuse)
    assert open_format(store).oldest == 1
    assert not store.exists("format.json")


def test_a_server_starts_when_the_storage_has_no_readable_format(store: LocalStore) -> None:
    refuse_newer_format(store)
    store.put("format.json", b"{")
    refuse_newer_format(store)


@pytest.mark.parametrize("kind", [Aliases, Deployment, Keys, Record, RegisteredVersion, GateRecord, Package, RunRecord,
                                  Report, Cohort, ValidationResult])  # fmt: skip
def test_a_record_of_a_newer_format_is_refused_whatever_else_it_holds(kind: Any) -> None:
    with pytest.raises(FormatError, match="upgrade Truecourse"):
        kind.model_validate_json(text(ENTRY | {"format": NEWER, "unheard_of": True}))


def test_records_are_written_with_the_number() -> None:
    report = Report(check="drift", problem="wine", at=AT, sentence="s")
    assert json.loads(report.model_dump_json())["format"] == FORMAT
    assert Report.model_validate_json(text({"check": "drift", "problem": "wine", "at": ENTRY["at"], "sentence": "s"}))


def test_entries_that_servers_of_format_1_read_have_no_field_that_these_reject() -> None:
    first = {*Entry.model_fields} - {"format"}
    aliases, keys = Aliases.model_validate_json(text(ENTRY)), Keys.model_validate_json(text(ENTRY))
    assert {*json.loads(aliases.model_dump_json())} == first | {"champion", "challenger", "shadow", "share"}
    assert {*json.loads(keys.model_dump_json())} == first | {"keys"}
    assert Aliases.model_validate_json(text(ENTRY | {"format": FORMAT})) == aliases


@pytest.mark.parametrize(("before", "now"), [("withdraw", "canary rollback"), ("judge", "evaluate"),
                                             ("settled", "update"), ("promote", "promote")])  # fmt: skip
def test_former_actions_are_read_as_todays(before: str, now: str) -> None:
    assert Aliases.model_validate_json(text(ENTRY | {"action": before})).action == now


def test_former_fields_are_read_and_todays_are_written() -> None:
    alarm = {"finding": FINDING, "opened": ENTRY["at"], "seen": ENTRY["at"]}
    notice = {"id": "1", "kind": "opened", "at": ENTRY["at"], "finding": FINDING, "sentence": "s"}
    record = Record.model_validate_json(
        text(ENTRY | {"open": [alarm | {"told": ENTRY["at"]}], "outbox": [notice | {"owed": ["webhook"]}]})
    )
    assert (record.open[0].notified_at, record.pending[0].channels) == (AT, ("webhook",))
    again = json.loads(record.model_dump_json())
    assert again["pending"][0]["channels"] == ["webhook"]
    assert "notified_at" in again["open"][0]
    assert Record.model_validate_json(text(again)) == record
    assert Alarm.model_validate(alarm | {"notified_at": AT}).notified_at == AT
    assert Notification.model_validate(notice | {"channels": ("prefect",)}).channels == ("prefect",)
    assert Finding.model_validate(FINDING | {"cause": "not told"}).cause == "metrics unreadable"


def test_former_fields_of_cohorts_and_validation_results_are_read() -> None:
    sums = {"day": "2026-11-01", "decisions": 3, "labelled": 2, "loss": 1, "expected": 1, "variance": 1, "residual": 0}
    cohort = Cohort.model_validate_json(
        text(sums | {"bins": [], "nameless": 1, "hindsight": [0.5, 0.1], "hindsight_squares": [0.3, 0.2]})
    )
    assert (cohort.day, cohort.without_id) == (date(2026, 11, 1), 1)
    assert (cohort.label_residuals, cohort.label_residual_squares) == ((0.5, 0.1), (0.3, 0.2))
    assert ValidationResult.model_fields["rules_sha256"].validation_alias.choices[1] == "judged_by"  # type: ignore[union-attr]


def test_a_problem_may_use_the_former_name_of_blockers() -> None:
    former = Retraining(spoilers=["dead feed"])  # type: ignore[call-arg]
    assert former == Retraining(blockers=["dead feed"])
    document = declaration_document(former)
    assert document == {"is": "Retraining", "tune": False, "blockers": ["dead feed"]}
    assert with_former_names({"monitoring": {"retraining": document}, "blockers": 1}) == {
        "monitoring": {"retraining": {"is": "Retraining", "tune": False, "spoilers": ["dead feed"]}},
        "blockers": 1,
    }


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("sketches/wine/abc/20260101.json", "histograms/wine/abc/20260101.json"),
        ("sketches/wine/abc/frozen.json", "histograms/wine/abc/profile.json"),
        ("sketches/wine/abc/contributions/reference.json", "histograms/wine/abc/contributions/reference.json"),
        ("quality/wine/1-abc/yardstick.json", "quality/wine/1-abc/baseline.json"),
        ("quality/wine/1-abc/hindsight.ubj", "quality/wine/1-abc/label_model.ubj"),
    ],
)
def test_an_object_is_found_by_its_former_key(store: LocalStore, before: str, now: str) -> None:
    assert (current_key(before), current_key(now), former_key(now)) == (now, now, before)
    store.put(before, b"then")
    assert get_stored(store, now) == b"then"
    store.put(now, b"now")
    assert get_stored(store, now) == b"now"


@pytest.mark.parametrize("key", ["quality/wine/1-abc/days.json", "alarms/wine.json", "runs/1/baseline.json"])
def test_other_objects_keep_their_keys(key: str) -> None:
    assert (current_key(key), former_key(key)) == (key, None)


def test_documents_without_a_model_have_the_number_too() -> None:
    assert read_numbered(b'{"edges": [1]}', "x") == {"edges": [1]}
    with pytest.raises(FormatError, match="x: it was written in format"):
        read_numbered(text({"format": NEWER}), "x")


FORMER_ENTRY = """{{
 "number": 1,
 "action": "withdraw",
 "reason": "r",
 "author": "a",
 "at": "2026-11-01T00:00:00Z",
 "follows": "",
 "sha256": "{sha256}",
 "champion": null,
 "challenger": null,
 "shadow": false,
 "share": 0.0
}}"""


def test_a_chain_of_both_formats_is_verified_by_its_bytes(store: LocalStore) -> None:
    ledger, digest = Ledger(store, "aliases/wine", Aliases), sha256(FORMER_ENTRY.format(sha256="").encode())
    store.put(ledger.key(1), FORMER_ENTRY.format(sha256=digest).encode())
    second = ledger.append(Aliases.model_validate(ENTRY | {"number": 2}))
    assert (ledger.faults(), second.follows) == ([], digest)
    first = ledger.entry(1)
    assert first is not None
    assert first.action == "canary rollback"
    store.put(ledger.key(1), store.get(ledger.key(1)).replace(b'"withdraw"', b'"promoted"'))
    assert ledger.faults() == ["entry 000000001.json was changed: its bytes do not match its SHA-256"]
