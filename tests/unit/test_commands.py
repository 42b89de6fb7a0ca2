"""The command line without running anything: help, usage errors, suggestions, completion."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands.run import FLOWS, parse_docstring
from cli.lazy import command_of, declaration
from cli.main import COMMANDS, GROUPS, execute

TRUECOURSE = str(Path(sys.executable).parent / "truecourse")


def run_cli(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = execute(words)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("words", "where", "what"),
    [
        (("predct",), "truecourse", "no such command 'predct'; did you mean predict?"),
        (("run", "lifecycl"), "truecourse run", "did you mean lifecycle?"),
        (("trace", "modle"), "truecourse trace", "did you mean model?"),
        (("status", "--probem", "x"), "truecourse status", "no such option --probem; did you mean --problem?"),
        (
            ("init", "--name", "x"),
            "truecourse init",
            "no such option --name; name is an argument: write its value alone",
        ),
        (("run", "score", "--sorce", "x"), "truecourse run score", "did you mean --source?"),
        (("reproduce",), "truecourse reproduce", "missing argument"),
        (("reproduce", "one"), "truecourse reproduce", "valid integer"),
        (("predict", "--example", "4"), "truecourse predict", "less than or equal to 3"),
    ],
)
def test_a_usage_error_is_one_json_object_and_status_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], where: str, what: str
) -> None:
    status, out, _ = run_cli(capsys, *words, "--json")
    assert status == 2
    error = json.loads(out)["error"]
    assert error["kind"] == "UsageError"
    assert error["where"] == where
    assert what in error["what"]
    assert error["hint"].startswith(where)


def test_a_usage_error_without_json_is_a_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_cli(capsys, "predct")
    assert (status, out) == (2, "")
    assert "did you mean predict?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [(), ("run",), ("trace",)])
def test_a_group_without_command_shows_its_help(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, out, err = run_cli(capsys, *words)
    assert (status, err) == (2, "")
    assert out.count("Usage:") == 1


def test_invalid_settings_are_an_error_with_json_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truecourse.settings import get_settings

    monkeypatch.setenv("TRUECOURSE_HOEM", "/tmp/elsewhere")
    get_settings.cache_clear()
    try:
        status, out, _ = run_cli(capsys, "check", "--json")
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    assert status == 1
    error = json.loads(out)["error"]
    assert error["kind"] == "SettingsError"
    assert "TRUECOURSE_HOEM: unknown setting; did you mean TRUECOURSE_HOME?" in error["what"]


def test_the_version_and_the_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(capsys, "--version")[:2] == (0, f"truecourse {importlib.metadata.version('truecourse')}\n")
    for words in ((), ("run",), ("run", "train"), ("status",), ("trace", "model")):
        status, out, _ = run_cli(capsys, *words, "-h")
        assert status == 0
        assert out == run_cli(capsys, *words, "--help")[1]


def test_the_lazy_command_list_equals_the_real_commands() -> None:
    """Help and completion read the source without importing it, so they must agree with it."""
    places = {name: load for name, load in COMMANDS.items() if name not in GROUPS}
    for name, load in places.items():
        module, _, function = load.args[1].partition(":")  # type: ignore[attr-defined]
        real = getattr(importlib.import_module(module), function)
        seen, wanted = command_of(name, f"{module}:{function}"), inspect.signature(real)
        assert {p.name for p in seen.params if p.name not in ("help",)} == set(wanted.parameters)
        assert inspect.cleandoc(real.__doc__) == inspect.cleandoc(seen.help)


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_option_has_a_help_text(name: str) -> None:
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    declared = declaration(f"flows.{name}", name)
    assert declared is not None
    real, ours = inspect.signature(flow.fn, eval_str=True), inspect.signature(declared)
    assert list(real.parameters.values()) == list(ours.parameters.values())
    summary, helps = parse_docstring(declared.__doc__ or "")
    assert set(helps) == set(real.parameters)
    assert "Args:" not in summary
    # Prefect's form shows the same text.
    schema = flow.parameters.model_dump()["properties"]
    for parameter, text in helps.items():
        assert " ".join(schema[parameter]["description"].split()) == text


def test_help_shows_the_whole_text_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run_cli(capsys, "run", "score", "--help")[1].replace("│", " ").split())
    for option in ("--problem", "--source", "--version", "--start", "--end", "--explain", "--json"):
        assert option in text
    assert "object storage; the problem's own decisions if empty." in text


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("truecourse st", {"status"}),
        ("truecourse run life", {"lifecycle"}),
        ("truecourse run score --so", {"--source"}),
        ("truecourse run train --problem alp", {"alpha"}),
        ("truecourse status --problem ", {"alpha", "beta"}),
        ("truecourse trace mo", {"model"}),
    ],
)
def test_shell_completion_works(tmp_path: Path, line: str, wanted: set[str]) -> None:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "problem.py").write_text("raise RuntimeError('completion imports no problem')")
    words = line.split(" ")
    asked = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TRUECOURSE_COMPLETE": "complete_bash",
        "TRUECOURSE_PROBLEMS": str(tmp_path),
    }
    done = subprocess.run([TRUECOURSE], env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == wanted
    assert done.returncode == 0, done.stderr


def test_help_and_completion_import_nothing_heavy() -> None:
    code = (
        "import sys; from cli.main import execute\n"
        "for words in (['-h'], ['run', '-h'], ['run', 'score', '-h'], ['status', '-h'], ['predict', '--nothing']):\n"
        "    execute(words)\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = set(done.stderr.split())
    assert "cli.main" in loaded
    assert not loaded & {"prefect", "mlflow", "feast", "duckdb", "pyarrow", "bentoml", "pandas", "deltalake"}


def test_the_completion_script_is_printed(tmp_path: Path) -> None:
    environment = os.environ | {"SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [TRUECOURSE, "--show-completion", "bash"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "_TRUECOURSE_COMPLETE=complete_bash" in done.stdout
