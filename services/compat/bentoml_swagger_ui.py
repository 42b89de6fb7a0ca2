"""The files of Swagger UI that BentoML ships.

What: they are read from BentoML's package.
Why: BentoML serves them on its own routes, which ours precede, and the page may load nothing from the network.
Without it: /docs answers that there is no Swagger UI; /openapi.json has the same contract.
"""

from importlib.resources import files

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"bentoml": ("1.4.39",)},
    changes="reads Swagger UI's files from BentoML's package",
    reason="the page of the contract may load nothing from the network",
    upstream="https://github.com/bentoml/BentoML/tree/HEAD/src/bentoml/_internal/server/static_content",
    without="/docs answers that there is no Swagger UI",
)


def read(name: str) -> bytes | None:
    """A file of Swagger UI; None if this BentoML ships none, or if the patch is left out."""
    if not PATCH.is_active():
        return None
    try:
        return (files("bentoml") / "_internal" / "server" / "static_content" / name).read_bytes()
    except OSError:
        return None
