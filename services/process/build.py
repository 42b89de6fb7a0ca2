"""Build and export a Bento, in a separate process: `python -m services.process.build FOLDER ARCHIVE NAME VERSION`.

BentoML reads its home folder from the environment at import, and imports the code that it packages.
"""

import shutil
import sys
import tarfile
from pathlib import Path


def main(folder: Path, archive: Path, name: str, version: str) -> None:
    import bentoml
    from bentoml._internal import configuration

    # BentoML requires uv even with nothing to lock, and would install it from the network.
    configuration.get_uv_command = lambda: ["uv"]
    # Line by line: BentoML refuses a requirements file below a hidden folder, such as our home.
    locked = (folder / "requirements.txt").read_text().splitlines()
    bento = bentoml.bentos.build(
        "services.service:service",
        name=name,
        version=version,
        build_ctx=str(folder),
        python={"packages": locked, "lock_packages": False},
    )
    # Restore the locked file: BentoML appends itself without a hash, which pip refuses in a file with hashes.
    shutil.copy(folder / "requirements.txt", Path(bento.path) / "env" / "python" / "requirements.txt")
    # The same archive as `bentoml export` writes, which goes through a shared temporary folder.
    with tarfile.open(archive, "w:xz", preset=1) as tar:
        for path in sorted(Path(bento.path).rglob("*")):
            tar.add(path, path.relative_to(bento.path).as_posix(), recursive=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
