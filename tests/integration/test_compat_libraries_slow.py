"""What takes seconds to prove of the libraries' shape: databases by their migrations, a client without server, imports.

The other tests of truecourse/compat are in tests/unit/test_compat_libraries.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.compat import prefect_unreachable
from tests.conftest import REPOSITORY, free_ports
from tests.library_tables import MIGRATIONS, contents, migrate
from truecourse.compat.library_database import create_database
from truecourse.settings import child_environment


@pytest.mark.parametrize("name", list(MIGRATIONS))
def test_a_dump_has_the_tables_of_the_locked_version(name: str, tmp_path: Path, home: Path) -> None:
    """If it fails after an upgrade, write the dumps anew: `python -m tests.library_tables`."""
    migrate(tmp_path / name)
    assert create_database(tmp_path / "dump" / name, MIGRATIONS[name])
    assert contents(tmp_path / "dump" / name) == contents(tmp_path / name)


@pytest.mark.parametrize("skipped", ["", "great_expectations_import"])
def test_great_expectations_imports_altair_and_scipys_tests_when_they_are_used(skipped: str) -> None:
    code = """if True:
        import importlib, inspect, sys
        from truecourse.compat import great_expectations_import
        great_expectations_import.import_library()
        inspect.getmodule(inspect.stack)
        name = "great_expectations.expectations.core.expect_column_kl_divergence_to_be_less_than"
        print(*(part in sys.modules for part in ("altair.vegalite", "scipy.stats._stats_py")))
        divergence = importlib.import_module(name)
        print(float(divergence.stats.entropy([1, 1], base=2)), divergence.alt.Chart.__name__)
        import altair
        from scipy.stats import norm
        print(norm.cdf(0), altair.Chart is divergence.alt.Chart)
    """
    environment = child_environment(TRUECOURSE_SKIPPED_PATCHES=skipped)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    imported = "True True" if skipped else "False False"
    assert done.stdout.splitlines() == [imported, "1.0 Chart", "0.5 True"], done.stderr


def test_prefects_errors_of_an_unreachable_server() -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        for ask in (client.read_flows, client.raise_for_api_version_mismatch):
            with pytest.raises(Exception) as raised:
                ask()
            assert prefect_unreachable.is_unreachable(raised.value, url)
    assert not prefect_unreachable.is_unreachable(RuntimeError("something else"), url)
