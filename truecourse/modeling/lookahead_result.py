"""The result of a look-ahead proof, as stored in a training frame's manifest."""

from pydantic import Field

from truecourse.references import Reference
from truecourse.wording import counted


class Proof(Reference):
    """The result of a look-ahead proof.

    `rows`: compared rows of each view, the spine and the labels, over all sampled moments. `unstable`: views that
    returned different values from the same sources. `applies`: whether any SQL reads a table with a time."""

    applies: bool
    moments: int = 0
    rows: dict[str, int] = Field(default_factory=dict)
    unstable: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if not self.applies:
            return "Look-ahead: not applicable, no SQL reads a table with a time."
        compared = f"{counted(sum(self.rows.values()), 'row')} of {counted(len(self.rows), 'query')}"
        sentence = f"Look-ahead: none on {self.moments} sampled moments ({compared})."
        return sentence + (f" Not stable: {', '.join(self.unstable)}." if self.unstable else "")
