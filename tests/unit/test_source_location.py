"""The place of a folder in its Git repository, as lineage events name it."""

import subprocess
from pathlib import Path

import pytest

from truecourse.registry.run_archive import source_location


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    return subprocess.run(
        ["git", "-C", folder, *person, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_folder_outside_a_repository_has_none(tmp_path: Path) -> None:
    assert source_location(tmp_path) is None


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://example.com/team/models.git", "https://example.com/team/models.git"),
        ("https://user:PASSWORD@example.com/team/models.git", "https://example.com/team/models.git"),
        ("git@example.com:team/models.git", "ssh://example.com/team/models.git"),
        ("ssh://git@example.com:2222/models.git", "ssh://example.com:2222/models.git"),
        ("/srv/models.git", "file:///srv/models.git"),
        ("", "file://{top}"),
    ],
)
def test_it_names_repository_commit_and_path_without_a_password(tmp_path: Path, remote: str, url: str) -> None:
    folder = tmp_path / "problems" / "orders"
    folder.mkdir(parents=True)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "first")
    if remote:
        git(tmp_path, "remote", "add", "origin", remote)
    found = source_location(folder)
    url = url.format(top=tmp_path)
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert found == {"type": "git", "url": url, "repoUrl": url, "path": "problems/orders/", "version": commit}
