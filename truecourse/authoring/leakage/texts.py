"""Labels hidden in texts and identifiers: in their first or last characters, their length, or in a word."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.authoring.leakage.columns import column_suspects
from truecourse.authoring.leakage.suspects import MAX_P_VALUE, Label, Suspect

_WORD = re.compile(r"\w{2,}")
_LEAST_RANGES = 3
"""Parts with fewer values are not compared with a number: two ranges of it may be two ends of a trend."""
_FEW = 20
"""Words at one place are tried if there are this many texts for each different one."""
_PURITY, _REACH = 0.98, 0.5
"""A suspected word's least share of rows with one class, and its least share of that class's rows."""


def text_suspects(label: Label, name: str, column: pa.Array) -> Iterator[Suspect]:
    """Suspicions from parts of a column of texts or whole numbers, most of whose values are different."""
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
        return
    texts = column.cast(pa.string())
    if pc.count_distinct(texts).as_py() < len(texts) / 5:
        return
    for part, values in _parts(texts):
        if label.codes is None and pc.count_distinct(values).as_py() < _LEAST_RANGES:
            continue
        for suspect in column_suspects(label, name, values):
            what = f"encodes {label.name}: the value of its {part} {suspect.what}"
            yield Suspect((name,), what, False)
            return
    if pa.types.is_string(kind) and label.codes is not None:
        yield from _word_suspects(label, name, texts)


def _parts(texts: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    yield "first character", pc.utf8_slice_codeunits(texts, 0, 1)
    yield "first two characters", pc.utf8_slice_codeunits(texts, 0, 2)
    yield "first three characters", pc.utf8_slice_codeunits(texts, 0, 3)
    yield "last character", pc.utf8_slice_codeunits(texts, -1)
    yield "last two characters", pc.utf8_slice_codeunits(texts, -2)
    yield "length", pc.utf8_length(texts)
    yield from _words_by_place(texts)
    digits = pc.replace_substring_regex(texts, r".*?(\d)\D*$", r"\1")
    digits = pc.if_else(pc.match_substring_regex(texts, r"\d"), digits, None)
    yield "last digit", digits
    yield "last digit, even or odd,", pc.bit_wise_and(digits.cast(pa.int64()), 1)


def _words_by_place(texts: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The words of each text by place, between other signs: `u12@shop.de` has three. Those with few values."""
    words = pc.split_pattern_regex(texts, r"[^\p{L}\p{N}]+")
    lengths = pc.fill_null(pc.list_value_length(words), 0)
    for place, name in enumerate(("first", "second", "third")):
        held = pc.greater(lengths, place)
        if pc.sum(held).as_py() < len(texts) / 2 or pc.max(lengths).as_py() < 2:
            return
        values = pc.list_element(words.filter(held), place)
        if pc.count_distinct(values).as_py() <= len(texts) / _FEW:
            yield f"{name} word", pc.replace_with_mask(pa.nulls(len(texts), pa.string()), held, values)


def _word_suspects(label: Label, name: str, texts: pa.Array) -> Iterator[Suspect]:
    """A word that most texts of one class have, and nearly none of the others."""
    truth = label.codes
    assert truth is not None
    classes = np.bincount(truth)
    found: dict[str, np.ndarray] = {}
    for text, code in zip(texts.to_pylist(), truth.tolist(), strict=True):
        for word in set(_WORD.findall((text or "").lower())):
            found.setdefault(word, np.zeros(len(classes), np.int64))[code] += 1
    for word, counts in sorted(found.items(), key=lambda each: -int(each[1].max())):
        most = int(counts.argmax())
        base = classes[most] / len(truth)
        purity, reach = counts[most] / counts.sum(), counts[most] / classes[most]
        if purity >= _PURITY and reach >= _REACH and base < 0.95 and base ** int(counts[most]) < MAX_P_VALUE:
            what = f"has the word {word!r} in {reach:.1%} of the rows with {label.name} {label.shown[most]}, "
            yield Suspect((name,), f"{what}and {purity:.1%} of the rows with that word are of these", False)
            return
