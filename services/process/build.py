"""Build and export a Bento, in a separate process: `python -m services.process.build FOLDER ARCHIVE NAME VERSION`.

BentoML reads its home folder from the environment at import, and imports the code that it packages.
"""

import sys
from pathlib import Path

from services.compat import bentoml_build


def main(folder: Path, archive: Path, name: str, version: str) -> None:
    import bentoml

    bentoml_build.skip_uv()
    # Line by line: BentoML refuses a requirements file below a hidden folder, such as our home.
    locked = (folder / "requirements.txt").read_text().splitlines()
    bento = bentoml.bentos.build(
        "services.service:service",
        name=name,
        version=version,
        build_ctx=str(folder),
        python={"packages": locked, "lock_packages": False},
    )
    bentoml_build.restore_requirements(Path(bento.path), folder / "requirements.txt")
    bentoml_build.export(Path(bento.path), archive)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
