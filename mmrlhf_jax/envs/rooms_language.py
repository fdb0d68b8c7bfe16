"""What is said in the rooms: things by colour and kind, instructions, and which of them are held out."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.errors import UserError

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
KINDS = ("key", "box", "ball", "cup", "star", "flag")
LOOKS = len(COLOURS) * len(KINDS)  # a look is kind x 6 + colour

WORDS = ("", "go", "to", "the", "pick", "up", "put", "next", *COLOURS, *KINDS)  # id 0 is padding
_IDS = {word: number for number, word in enumerate(WORDS)}
_COLOUR, _KIND = "COLOUR", "KIND"
TEMPLATES = {
    1: ("go", "to", "the", _COLOUR, _KIND),
    2: ("pick", "up", "the", _COLOUR, _KIND),
    3: ("put", "the", _COLOUR, _KIND, "next", "to", "the", _COLOUR, _KIND),
}

Split = Literal["train", "combinations", "pairs"]


class Posed(NamedTuple):
    """What instructions may name and rooms may show, numpy booleans.

    Attributes:
      named_LxL: [a, b] where the first thing named may look like a and the second like b; levels that name
        one thing read whether any b is there.
      shown_L: looks that other things in the room may have.
    """

    named_LxL: np.ndarray
    shown_L: np.ndarray


def held_out_looks() -> np.ndarray:
    """(L,) True for the six combinations of colour and kind that training neither names nor shows.

    Each colour lacks one kind, and each kind one colour.
    """
    kind, colour = np.divmod(np.arange(LOOKS), len(COLOURS))
    return colour == kind


def held_out_pairs() -> np.ndarray:
    """(L, L) True for ordered pairs of trained looks that training never names together: about an eighth."""
    trained = ~held_out_looks()
    number = np.cumsum(trained) - 1
    far = (3 * number[:, None] + number[None]) % 8 == 0
    return far & trained[:, None] & trained[None] & ~np.eye(LOOKS, dtype=bool)


def posed(split: Split) -> Posed:
    """What `split` poses: "train", held-out "combinations" as the thing to go to, or held-out "pairs".

    Raises:
      UserError: there is no such split.
    """
    held, different = held_out_looks(), ~np.eye(LOOKS, dtype=bool)
    among_trained = ~held[:, None] & ~held[None] & different
    match split:
        case "train":
            return Posed(among_trained & ~held_out_pairs(), ~held)
        case "combinations":
            return Posed(held[:, None] & different, np.ones(LOOKS, bool))
        case "pairs":
            return Posed(held_out_pairs(), ~held)
    raise UserError(f"no split {split!r}: choose train, combinations or pairs")


def instruct(level: int, first: jax.Array, second: jax.Array) -> jax.Array:
    """The instruction of `level` for things that look like `first` and `second`: (T,) int32 word ids."""
    colours = iter((first % len(COLOURS), second % len(COLOURS)))
    kinds = iter((first // len(COLOURS), second // len(COLOURS)))
    ids = []
    for word in TEMPLATES[level]:
        if word == _COLOUR:
            ids.append(_IDS[COLOURS[0]] + next(colours))
        elif word == _KIND:
            ids.append(_IDS[KINDS[0]] + next(kinds))
        else:
            ids.append(jnp.full_like(first, _IDS[word]))
    return jnp.stack(ids).astype(jnp.int32)


def telling_places(level: int) -> list[int]:
    """Where the instruction of `level` has a colour or a kind."""
    return [place for place, word in enumerate(TEMPLATES[level]) if word in (_COLOUR, _KIND)]


def fits_unsaid(level: int, unsaid: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """(L,) True for the looks that fit what is still said of the thing whose colour or kind is left out.

    Args:
      unsaid: place of the word that is left out; -1: none, and no look is True.
      first, second: looks of what the instruction names.
    """
    kind_L, colour_L = np.divmod(np.arange(LOOKS), len(COLOURS))
    fits_L = jnp.zeros(LOOKS, bool)
    for number, place in enumerate(telling_places(level)):
        named = first if number < 2 else second
        kind, colour = jnp.divmod(named, len(COLOURS))
        said_alike_L = kind_L == kind if TEMPLATES[level][place] == _COLOUR else colour_L == colour
        fits_L |= (unsaid == place) & said_alike_L
    return fits_L


def decode(ids_T: np.ndarray) -> str:
    """The text of one instruction; padding is left out."""
    return " ".join(WORDS[int(number)] for number in ids_T if number)


def encode(text: str, length: int) -> np.ndarray:
    """The (length,) int32 ids of a text, padded.

    Raises:
      UserError: a word outside the vocabulary, or too many words.
    """
    words = text.split()
    odd = [word for word in words if word not in _IDS]
    if odd:
        raise UserError(f"unknown word {odd[0]!r} in {text!r}: the rooms know {', '.join(WORDS[1:])}")
    if len(words) > length:
        raise UserError(f"{text!r} has {len(words)} words: at most {length} here")
    ids_T = np.zeros(length, np.int32)
    ids_T[: len(words)] = [_IDS[word] for word in words]
    return ids_T


def name_of(look: int) -> str:
    """A look in words, e.g. "red key"."""
    kind, colour = divmod(int(look), len(COLOURS))
    return f"{COLOURS[colour]} {KINDS[kind]}"
