"""BentoML's build: its search for uv, and the layout and the archive of a Bento.

What: `get_uv_command` is replaced by one that names uv without looking for it. The locked requirements are written
again below `env/python`. The archive has the form of `bentoml export`.
Why: BentoML requires uv even with nothing to lock, and would install it from the network. It appends itself to the
requirements without a hash, which pip refuses in a file with hashes. Its export goes through a shared folder.
Without it: a machine needs uv, or a package index, to build a Bento.
"""

import shutil
import tarfile
from pathlib import Path

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"bentoml": ("1.4.39",)},
    changes="replaces get_uv_command; restores the locked requirements of a Bento",
    reason="BentoML requires uv even with nothing to lock, and installs it from the network",
    upstream="https://github.com/bentoml/BentoML/pull/5238",
    without="a machine needs uv, or a package index, to build a Bento",
)
REQUIREMENTS = Path("env", "python", "requirements.txt")
"""The requirements in a Bento, from which its image is installed."""


def skip_uv() -> None:
    """Make BentoML build without uv."""
    if PATCH.is_active():
        from bentoml._internal import configuration

        configuration.get_uv_command = lambda: ["uv"]


def restore_requirements(bento: Path, locked: Path) -> None:
    """Write the locked requirements into a Bento, in place of those that BentoML completed."""
    shutil.copy(locked, bento / REQUIREMENTS)


def export(bento: Path, archive: Path) -> None:
    """Write a Bento's folder as `bentoml export` does."""
    with tarfile.open(archive, "w:xz", preset=1) as tar:
        for path in sorted(bento.rglob("*")):
            tar.add(path, path.relative_to(bento).as_posix(), recursive=False)
