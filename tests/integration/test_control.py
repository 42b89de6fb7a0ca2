"""The control page: as a file, as a server, and in a browser at the width of a phone."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cli.platform.control_server import application
from tests.conftest import wait_until
from tests.integration.conftest import Endpoint, Trained
from tests.integration.test_service import ROW
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.dashboard import control_page, index
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem.loader import load_problem
from truecourse.serving import log_shipping, prediction_log
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import LocalStore, open_store

START = datetime(2024, 5, 6, 6, tzinfo=UTC)


def finding(page: bool) -> Finding:
    return Finding(check="skew", subject="<b>ratio</b>", cause="code", page=page, sentence="Ratio is <computed> anew.")


def report(day: float, *findings: Finding, made: bool = True) -> Report:
    at = START + timedelta(days=day)
    return Report(check="skew", problem="deliveries", at=at, sentence="A sentence.", made=made, findings=findings)


@pytest.fixture
def client(trained: Trained) -> Iterator[TestClient]:
    with TestClient(
        application("deliveries", {"Prefect": "http://127.0.0.1:1/"}), base_url="http://localhost"
    ) as test_client:
        yield test_client


@pytest.fixture
def logged_id(endpoint: Endpoint) -> str:
    """The id of a prediction that is in the prediction log."""
    prediction_id = str(endpoint.post("/predict", ROW).json()["predictions"][0]["prediction_id"])

    def shipped() -> bool:  # records of other tests may be pending too
        log_shipping.ship("deliveries")
        return bool(prediction_log.find_records(Tables(), "deliveries", prediction_id))

    wait_until(shipped, 20, "the answer's record")
    return prediction_id


def test_the_control_page_shows_the_champion_and_links_to_reports(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    document = client.get("/control.json").json()
    assert f"version {document['champion']['version']}" in page.text
    assert document["champion"]["model_sha256"][:16] in page.text
    for file in document["pages"].values():
        assert f'href="/reports/deliveries/{file}"' in page.text
        assert client.get(f"/reports/deliveries/{file}").status_code == 200
    assert client.get("/problems/deliveries").status_code == 200


def test_the_lineage_of_a_prediction_is_shown_and_an_unknown_one_is_an_error(
    client: TestClient, logged_id: str
) -> None:
    line = client.get("/prediction", params={"id": logged_id})
    assert line.status_code == 200
    assert "was verified just now" in line.text
    missing = client.get("/prediction", params={"id": "<script>alert(1)</script>"})
    assert missing.status_code in (404, 422)
    assert "no such prediction" in missing.text
    assert "<script>alert" not in missing.text
    assert client.get("/prediction", params={"id": " "}, follow_redirects=False).status_code == 307


@pytest.fixture
def secret(trained: Trained) -> Iterator[bytes]:
    """A document at the storage root, `x.json`, which no address may return."""
    open_store().put("x.json", b"secret")
    yield b"secret"
    open_store().delete("x.json")


def test_it_serves_reports_and_nothing_else(client: TestClient, secret: bytes) -> None:
    for path in ("/reports/../x.json", "/reports/%2e%2e/x.json", "/reports/deliveries/none.html", "/x.json"):
        answer = client.get(path)
        assert answer.status_code in (404, 422), path
        assert secret not in answer.content
    assert client.get("/reports/deliveries/model.ubj").status_code == 404
    assert client.get("/problems/none").status_code == 422
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400
    assert client.post("/").status_code == 405


def test_the_index_of_problems_leads_to_each_and_each_leads_back(client: TestClient, trained: Trained) -> None:
    control_page.publish(open_store(), load_problem("deliveries"))
    for path in ("/reports", "/reports/", "/reports/index.html"):
        page = client.get(path)
        assert page.status_code == 200
        assert 'href="deliveries/control.html"' in page.text
    live = client.get("/reports/deliveries/control.html")
    assert live.status_code == 200
    assert "Show its lineage" in live.text, "the page as it is now, not as it was written"
    assert 'href="/reports/index.html"' in live.text
    validation = client.get("/reports/deliveries/validation.html").text
    assert 'href="control.html"' in validation
    assert 'href="../index.html"' in validation
    model = next(key for key in open_store().list("mlflow/") if key.endswith("/model.html"))
    assert "index.html" not in open_store().get(model).decode(), "the copy in MLflow has no links to other pages"


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fcontrol/deliveries.json", "deliveries/..%5c..%5cx.json", ".%2e/x.json", "%2fetc/x.json", "//x.json",
     "deliveries//x.json", "deliveries/%00.json", "deliveries/.hidden.json/../x.json"],
)  # fmt: skip
def test_only_reports_are_served(client: TestClient, secret: bytes, path: str) -> None:
    answer = client.get(f"/reports/{path}")
    assert answer.status_code in (404, 422)
    assert secret not in answer.content


def test_many_alarms_do_not_fill_the_page(trained: Trained, tmp_path: Path) -> None:
    store, problem = LocalStore(tmp_path), load_problem("deliveries")
    findings = [finding(number == 150).model_copy(update={"subject": f"feature {number}"}) for number in range(300)]
    alarms = tuple(record.Alarm(finding=one, opened=START, seen=START) for one in findings)
    record.write(store, "deliveries", START, "opened", lambda current: {"open": alarms})
    report_store.save(store, report(0, *findings))
    page = control_page.page(store, problem, served=False, at=START)
    open_alarms = page.split("Open alarms")[1].split("<h2>")[0]
    shown, folded = open_alarms.split("<details>")
    assert shown.count('class="card finding') == 8
    assert "feature 150" in shown, "what is critical leads"
    assert "292 more findings" in folded
    assert "And 200 others" in folded
    assert len(page) < 200_000


def test_days_show_the_worst_that_was_found_and_reports_are_escaped(trained: Trained, tmp_path: Path) -> None:
    store, problem = LocalStore(tmp_path), load_problem("deliveries")
    for each in (report(0), report(1, finding(True)), report(1.5, finding(False)), report(2, made=False)):
        report_store.save(store, each)
    report_store.save(store, report(3, finding(False)))
    document = control_page.document(store, problem, START + timedelta(days=4))
    days = ["2024-05-06", "2024-05-07", "2024-05-08", "2024-05-09"]
    assert document["days"]["skew"] == list(zip(days, ("ok", "critical", "unknown", "warning"), strict=True))
    assert document["sentence"] == "Ratio is <computed> anew."
    page = control_page.page(store, problem, served=False, at=START + timedelta(days=4))
    assert "Ratio is &lt;computed&gt; anew." in page
    assert "<b>ratio" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_unknown_checks_are_shown_with_a_hint(trained: Trained, tmp_path: Path) -> None:
    store, problem = LocalStore(tmp_path), load_problem("deliveries")
    for day in (0, 3):
        report_store.save(store, report(day))
    document = control_page.document(store, problem, START + timedelta(days=4))
    assert [state for _, state in document["days"]["skew"]] == ["ok", "unknown", "unknown", "ok"]
    states = {one["check"]: one["state"] for one in document["checks"]}
    assert states.pop("skew") == "ok"
    assert set(states.values()) == {"unknown"}
    assert len(states) == 7
    assert document["sentence"].startswith("No findings; unknown: drift, quality, ")
    page = control_page.page(store, problem, served=False, at=START + timedelta(days=4))
    assert page.count("Hint: ") == 7
    control_page.publish(store, problem)
    (entry,) = index.entries(store)
    assert entry.state == "ok"


def test_open_alarms_and_events_are_listed(trained: Trained, tmp_path: Path) -> None:
    store, problem = LocalStore(tmp_path), load_problem("deliveries")
    alarm = record.Alarm(finding=finding(True), opened=START, seen=START)
    event = record.Event(kind="opened", at=START, sentence="It was opened.", alarm=alarm.id, finding=alarm.finding)
    record.write(store, "deliveries", START, "opened", lambda current: {"open": (alarm,), "events": (event,)})
    page = control_page.page(store, problem, served=False, at=START)
    assert "since 2024-05-06 06:00" in page
    assert "It was opened." in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(trained: Trained, tmp_path: Path, width: int) -> None:
    """Render the page in a frame of that width, and read how wide it is."""
    page = control_page.page(open_store(), load_problem("deliveries"), served=False)
    (tmp_path / "page.html").write_text(page)
    frame = f'<iframe id="f" width="{width}" height="900" src="page.html"></iframe>'
    look = "const d = f.contentDocument.documentElement; out.textContent = `${d.scrollWidth} of ${d.clientWidth}`"
    script = f"<script>f.onload = () => {{ {look} }}</script>"
    (tmp_path / "frame.html").write_text(f'<pre id="out"></pre>{frame}{script}')
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120)
    wide, room = done.stdout.split('<pre id="out">')[1].split("</pre>")[0].split(" of ")
    assert int(wide) <= int(room)
