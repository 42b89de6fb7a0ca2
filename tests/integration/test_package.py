"""Packaging: the content of a Bento, when it is built, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.package import package
from services.model.predictor import open_predictor
from services.process import endpoint_process
from tests.conftest import free_ports, stop
from tests.integration.conftest import Endpoint, Trained
from truecourse.deployment.bento import bento_files
from truecourse.errors import IntegrityError, ModelError, PlatformError
from truecourse.hashing import sha256
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.registry.run_archive import FOLDER
from truecourse.registry.runs import artifact_key
from truecourse.settings import REPOSITORY, child_environment
from truecourse.storage.object_store import open_store

CHANGE = "PROBLEM = dataclasses.replace(PROBLEM, {})\n"


@pytest.fixture
def change_problem(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Callable[[str], None]:
    """Replace fields of the problem."""

    def change(what: str) -> None:
        shutil.copytree(trained.problems, tmp_path / "problems", dirs_exist_ok=True)
        file = tmp_path / "problems" / "deliveries" / "problem.py"
        file.write_text("import dataclasses\n" + file.read_text() + CHANGE.format(what))
        configure(problems=tmp_path / "problems")

    return change


def test_the_bento_holds_the_files_that_serving_needs(endpoint: Endpoint, trained: Trained) -> None:
    source = endpoint.folder / "src"
    assert sha256((source / "model" / "model.ubj").read_bytes()) == trained.version.model_sha256
    for name in ("vocabulary.json", "contract.json", "problem.json", "inference.json"):
        assert (source / "model" / name).is_file()
    folder = source / "problems" / "deliveries"
    assert (folder / "problem.py").read_bytes() == (trained.problems / "deliveries" / "problem.py").read_bytes()
    assert not (folder / "data").exists(), "no training data in a Bento"
    lock = (REPOSITORY / "requirements.lock").read_bytes()
    assert (endpoint.folder / "env" / "python" / "requirements.txt").read_bytes() == lock
    assert (endpoint.folder / "env" / "docker" / "Dockerfile").is_file()


def test_the_server_runs_the_code_of_the_bento(endpoint: Endpoint) -> None:
    """And not the code of the checkout, which is installed too."""
    script = (
        "from _bentoml_impl.loader import load; load(sys.argv[1], standalone_load=True); "
        "import services.http.routes, truecourse; print(services.http.routes.__file__, truecourse.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}", str(endpoint.folder)],
        env=endpoint_process.environment(endpoint.folder, free_ports(1)[0]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(file).is_relative_to(endpoint.folder / "src") for file in done.stdout.split()[-2:])


def test_the_archive_in_storage_is_the_one_that_the_version_names(endpoint: Endpoint, trained: Trained) -> None:
    tags = registry.tags(trained.version)
    data = open_store().get(tags["truecourse.bento_key"])
    assert sha256(data) == tags["truecourse.bento_sha256"]
    assert tags["truecourse.bento_key"].startswith(f"bentos/deliveries/{trained.version.version}-")


def test_packaging_again_keeps_the_bento(endpoint: Endpoint, trained: Trained) -> None:
    before = registry.tags(trained.version)
    reference = package("deliveries")
    assert reference.key == before["truecourse.bento_key"]
    assert registry.tags(trained.version) == before


def test_gates_may_change_after_training(change_problem: Callable[[str], None], trained: Trained) -> None:
    change_problem("gates=()")
    assert bento_files(load_problem("deliveries"), trained.version)


@pytest.mark.parametrize(
    "what", ['request={**PROBLEM.request, "distance": Float(ge=1)}', "views=PROBLEM.views[:2]", "request_features=None"]
)
def test_a_version_is_packaged_with_the_problem_as_it_was_trained(
    change_problem: Callable[[str], None], trained: Trained, what: str
) -> None:
    before = bento_files(load_problem("deliveries"), trained.version)
    change_problem(what)
    assert bento_files(load_problem("deliveries"), trained.version) == before


def test_a_changed_problem_without_an_archive_is_refused(
    change_problem: Callable[[str], None], trained: Trained, tmp_path: Path, configure: Callable[..., None]
) -> None:
    change_problem("views=PROBLEM.views[:2]")
    shutil.copytree(trained.home / "storage", tmp_path / "storage")
    configure(storage=tmp_path / "storage")
    assert bento_files(load_problem("deliveries"), trained.version)
    open_store().delete(artifact_key(trained.version.run_id, FOLDER))
    with pytest.raises(ModelError, match=r"changed since training \(sql, views\), and none was archived") as caught:
        bento_files(load_problem("deliveries"), trained.version)
    assert "train" in caught.value.hint


def test_a_model_with_other_bytes_is_refused(trained: Trained) -> None:
    with pytest.raises(IntegrityError):
        bento_files(load_problem("deliveries"), trained.version.model_copy(update={"model_sha256": "0" * 64}))


def test_no_version_is_a_clear_error(trained: Trained, home: Path) -> None:
    with pytest.raises(ModelError, match="no champion") as caught:
        package("deliveries")
    assert "register" in caught.value.hint
    with pytest.raises(ModelError, match="no version 7"):
        package("deliveries", version=7)
    with pytest.raises(ModelError, match="no champion"):
        endpoint_process.prepare("deliveries")


def test_a_bento_whose_bytes_were_changed_is_not_unpacked(endpoint: Endpoint, trained: Trained, tmp_path: Path) -> None:
    forged = endpoint_process.find_package("deliveries", trained.version.version).bento.model_copy(
        update={"sha256": "0" * 64}
    )
    with pytest.raises(IntegrityError, match="bytes were changed"):
        endpoint_process.unpack(forged, trained.version)
    assert not list((trained.home / "serving").glob(".unpacking-*"))
    assert not (trained.home / "serving" / forged.sha256).exists()


@pytest.fixture
def unpacked(endpoint: Endpoint, tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A copy of the served Bento's files."""
    shutil.copytree(endpoint.folder / "src", tmp_path / "src")
    configure(problems=tmp_path / "src" / "problems")
    return tmp_path / "src"


def test_a_changed_file_of_a_bento_is_an_error(unpacked: Path) -> None:
    assert open_predictor(unpacked / "model").about["problem"] == "deliveries"
    vocabulary = unpacked / "model" / "vocabulary.json"
    vocabulary.write_text(vocabulary.read_text().replace("van", "car"))
    with pytest.raises(IntegrityError, match=r"vocabulary\.json"):
        open_predictor(unpacked / "model")


def test_a_changed_problem_of_a_bento_is_an_error(unpacked: Path) -> None:
    file = unpacked / "problems" / "deliveries" / "problem.py"
    file.write_text(file.read_text().replace("minutes // 60 % 24", "minutes // 60 % 12"))
    with pytest.raises(IntegrityError, match="differs from the packaged problem"):
        open_predictor(unpacked / "model")


def test_a_server_that_cannot_start_is_an_error_with_its_status(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path / "bento" / "src")
    (tmp_path / "bento" / "src" / "services" / "service.py").write_text("raise RuntimeError('broken on purpose')\n")
    (port,) = free_ports(1)
    server = endpoint_process.start(tmp_path / "bento" / "src", port, tmp_path / "log")
    try:
        with pytest.raises(PlatformError) as caught:
            endpoint_process.wait_ready(server, port)
    finally:
        stop(server.process)
    assert "ended with status" in str(caught.value)


def test_one_interrupt_stops_the_server_and_its_worker(endpoint: Endpoint, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = endpoint_process.start(endpoint.folder, port, tmp_path / "log")
    endpoint_process.wait_ready(server, port)
    process = server.process
    group = os.getpgid(process.pid)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_bentoml_itself_can_read_the_archive(endpoint: Endpoint, trained: Trained, tmp_path: Path) -> None:
    reference = endpoint_process.find_package("deliveries", trained.version.version).bento
    open_store().download(reference.key, tmp_path / "archive.bento")
    script = "import bentoml, sys; print(bentoml.import_bento(sys.argv[1]).tag.name)"
    environment = child_environment(BENTOML_HOME=str(tmp_path / "bentoml"), TMPDIR=str(tmp_path))
    command = [sys.executable, "-c", script, str(tmp_path / "archive.bento")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "deliveries"
