"""Declaration of the words or characters of a text as model inputs."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Ngrams:
    """Counts of a text's n-grams in a fixed number of columns, by a hash (Weinberger et al. 2009).

    Letters count as lower-case. Nothing is learned from the rows, so words that training did not have are counted too.
    """

    width: Annotated[int, Field(ge=2, le=4096)] = 64
    """Number of columns; n-grams of one column are counted together. Example: `width=256`."""
    of: Literal["words", "characters"] = "words"
    """What an n-gram consists of; those of characters do not cross words. Example: `of="characters"`."""
    shortest: Annotated[int, Field(ge=1, le=8)] = 1
    """Fewest words or characters of an n-gram. Example: `shortest=3`."""
    longest: Annotated[int, Field(ge=1, le=8)] = 1
    """Most words or characters of an n-gram. Example: `longest=5`."""
