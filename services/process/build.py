"""Build and export a Bento, in a process of its own: `python -m services.process.build FOLDER ARCHIVE NAME VERSION`.

BentoML reads where it works from the environment at import, and imports what it packages.
"""

import shutil
import sys
import tarfile
from pathlib import Path


def main(folder: Path, archive: Path, name: str, version: str) -> None:
    import bentoml
    from bentoml._internal import configuration

    # Bento asks for uv even when it has nothing to lock, and would install it from the network.
    configuration.get_uv_command = lambda: ["uv"]
    # Line by line, since Bento refuses a requirements file below a hidden folder, as our home is.
    locked = (folder / "requirements.txt").read_text().splitlines()
    bento = bentoml.bentos.build(
        "services.service:service",
        name=name,
        version=version,
        build_ctx=str(folder),
        python={"packages": locked, "lock_packages": False},
    )
    # As it was locked: Bento appends itself once more, with no hash, which pip refuses beside the others' hashes.
    shutil.copy(folder / "requirements.txt", Path(bento.path) / "env" / "python" / "requirements.txt")
    # What `bentoml export` writes, without its detour through a shared temporary folder.
    with tarfile.open(archive, "w:xz", preset=1) as tar:
        for path in sorted(Path(bento.path).rglob("*")):
            tar.add(path, path.relative_to(bento.path).as_posix(), recursive=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
