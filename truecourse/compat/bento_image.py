"""The image of a Bento, as the Dockerfile that BentoML writes into it lays it out.

What: Compose and Kubernetes files mount volumes below the user's home and refer to the Bento's folder and user.
Why: BentoML offers no way to ask for them; they are constants of its Dockerfile template.
Without it: generated files would not fit the image. So no setting leaves it out.
"""

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"bentoml": ("1.4.39",)},
    changes="states the user and the folders of the image that a Bento's Dockerfile builds",
    reason="BentoML documents neither",
    upstream="https://github.com/bentoml/BentoML/blob/HEAD/src/bentoml/_internal/container/generate.py",
    without="Compose and Kubernetes files do not fit the image",
)
USER = 1034
"""The id of the image's user and group."""
HOME = "/home/bentoml"
BENTO = f"{HOME}/bento"
"""The folder of the Bento, with our code below `src`."""
STORE = f"{HOME}/bentoml"
"""BentoML's own folder, which it writes to."""
