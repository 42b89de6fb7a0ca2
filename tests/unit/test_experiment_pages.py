"""Pages of experiments: the control page links to the newest ones, and old ones are removed."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.evaluation.experiment_pages import newest_pages, page_file
from truecourse.monitoring.dashboard import control_page
from truecourse.problem import Files, Label, Problem, RandomSplit, Table, Text
from truecourse.retention.removal import Context
from truecourse.retention.reports import expired_reports
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import LocalStore

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROBLEM = Problem(
    "shops", kind="multiclass", split=RandomSplit(),
    tables=[Table("rows", source=Files("rows.csv"), columns={"size": Text(), "label": Text()})],
    label=Label(table="rows", column="label"),
)  # fmt: skip


def store_pages(store: LocalStore, root: Path, files: list[str]) -> None:
    """Store pages, each a day older than the one before."""
    for days, file in enumerate(files):
        store.put(f"reports/shops/{file}", b"<html>")
        at = (NOW - timedelta(days=days)).timestamp()
        os.utime(root / "reports" / "shops" / file, (at, at))


@pytest.mark.parametrize("served", [False, True])
def test_the_control_page_links_to_the_newest_experiments(home: Path, served: bool) -> None:
    store = LocalStore(home)
    store_pages(store, home, [page_file("compare", f"champion-{n}") for n in range(7)])
    store_pages(store, home, [page_file("tune", "8f3a2b1c0d" * 2), page_file("select", "0a" * 16), "diff/1-2.html"])
    for kind in ("drift", "compare"):
        store.put(f"reports/other/{kind}/4.html", b"")
    page = control_page.page(store, PROBLEM, served=served)
    links = re.findall(r'<td class="when">([\d: -]+)</td><td class="text"><a href="([^"]+)">([^<]+)</a>', page)
    assert [title for _, _, title in links][:4] == [
        "Parameter search 8f3a2b1c", "Comparison of champion, 0", "Feature selection of run 0a0a0a0a",
        "Comparison of champion, 1",
    ]  # fmt: skip
    assert len(links) == 9
    assert [at for at, *_ in links] == sorted((at for at, *_ in links), reverse=True)
    for _, link, _ in links:
        assert store.exists(link.lstrip("/") if served else f"reports/shops/{link}")
    store_pages(store, home, [page_file("compare", f"{n}-{n + 1}") for n in range(40)])
    assert len(control_page.document(store, PROBLEM)["experiments"]) == control_page.EXPERIMENTS


@given(st.text(min_size=1, max_size=200))
def test_every_name_is_a_file_below_its_kind(name: str) -> None:
    file = page_file("compare", name)
    assert re.fullmatch(r"compare/[a-z0-9@.-]{1,100}\.html", file)


def test_old_pages_are_removed_back_from_the_newest(home: Path, configure: Callable[..., None]) -> None:
    configure(report_retention=2.5)
    store, tables = LocalStore(home / "storage"), Tables()
    store_pages(store, home / "storage", [page_file("compare", str(n)) for n in range(5)])
    for removal in expired_reports(Context(tables, "shops", get_settings(), NOW)):
        removal.remove()
    assert [page.file for page in newest_pages(store, "shops", 9)] == [f"compare/{n}.html" for n in range(3)]
