"""What a look-ahead proof compared, as a training frame's manifest keeps it."""

from pydantic import Field

from truecourse.references import Reference
from truecourse.wording import counted


class Proof(Reference):
    """What was compared: the rows of each view, the spine and the labels, over all its moments. `unstable`: views that
    gave other values from the same sources. `applies`: whether any SQL reads a table with a time."""

    applies: bool
    moments: int = 0
    rows: dict[str, int] = Field(default_factory=dict)
    unstable: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if not self.applies:
            return "Look-ahead: not applicable, no SQL reads a table with a time."
        compared = f"{counted(sum(self.rows.values()), 'row')} of {counted(len(self.rows), 'query')}"
        said = f"Look-ahead: none on {self.moments} sampled moments ({compared})."
        return said + (f" Not stable: {', '.join(self.unstable)}." if self.unstable else "")
