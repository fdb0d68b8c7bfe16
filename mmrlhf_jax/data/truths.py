"""What a caption says that augmentation could make untrue. Read once, on the host."""

import re
from collections.abc import Iterable

import numpy as np

# Sides and turns; writing, flags, clocks, the moon's quarters, whose mirror image is another thing.
SIDED_WORDS = """
left right leftward leftwards rightward rightwards left-facing right-facing left-pointing right-pointing east
west northeast northwest southeast southwest clockwise counterclockwise anticlockwise sideways flag flags
keycap clock watch o'clock calendar button sign symbol mark letter letters text word words number numbers
digit input latin quarter crescent moon next last previous reverse rewind fast-forward forward shuffle repeat
map globe dollar euro pound yen banknote currency copyright registered zodiac handwriting keyboard newspaper
bookmark script mirror mirrored reading writing
"""
COLOUR_WORDS = """
black white grey gray brown red orange yellow green blue purple violet pink cyan magenta gold golden silver
bronze light dark medium medium-light medium-dark pale bright dim tone skin blond blonde ginger rainbow
colour color colours colors coloured colored tan beige turquoise navy
"""
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_SIDED, _COLOURS = (frozenset(words.split()) for words in (SIDED_WORDS, COLOUR_WORDS))


def may_flip(text: str) -> bool:
    """Whether a mirror image fits the caption as well.

    False where it names a side, or writing, or what else has sides: whole words in capitals and digits count
    as writing. It is a list of English words, on the safe side, and no proof.
    """
    words = _words(text)
    capitals = {word for word in words if word.isupper()} - {"A", "I"}
    digits = any(map(str.isdigit, text))
    return not capitals and not digits and not _SIDED.intersection(map(str.lower, words))


def may_recolour(text: str) -> bool:
    """Whether the caption fits whatever the colours are: it names none, nor anybody's skin or hair colour."""
    return not _COLOURS.intersection(map(str.lower, _words(text)))


def allowed(*columns: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows may be flipped and which recoloured, two (N,) of bool: those whose every text allows it.

    Args:
      columns: texts about the same N pictures, e.g. the chosen and the rejected answers.
    """
    rows = list(zip(*columns, strict=True))
    return (
        np.array([all(map(may_flip, row)) for row in rows], bool),
        np.array([all(map(may_recolour, row)) for row in rows], bool),
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.replace("\u2019", "'"))
