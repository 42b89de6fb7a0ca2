"""Names of flow runs."""

import importlib
from datetime import UTC, datetime

import pytest

from cli.commands.run import FLOWS
from tasks.naming import format_run_name, run_name

AT = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_names_its_runs(name: str) -> None:
    assert getattr(importlib.import_module(f"flows.{name}"), name).flow_run_name is run_name


def test_a_run_name_has_flow_problem_and_parameters() -> None:
    plain = {"problem": "wine", "until": None, "tune": False}
    assert format_run_name("train", plain, AT) == "train wine 2024-05-06 07:08 UTC"
    assert format_run_name("package", {"problem": "wine", "version": 3}, AT).endswith("UTC, version 3")
    asked = {"problem": "wine", "source": "s3://bucket/new.csv", "start": AT}
    assert format_run_name("score", asked, AT).endswith("UTC, source new.csv, start 2024-05-06")
