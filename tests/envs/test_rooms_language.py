"""Instructions in the rooms: texts and ids, and that what is held out is held out."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.rooms_language import (
    COLOURS,
    KINDS,
    LOOKS,
    TEMPLATES,
    decode,
    encode,
    held_out_looks,
    held_out_pairs,
    instruct,
    name_of,
    posed,
)
from mmrlhf_jax.errors import UserError

KIND, COLOUR = np.divmod(np.arange(LOOKS), len(COLOURS))
RED_KEY = 0
BLUE_BOX = len(COLOURS) * KINDS.index("box") + COLOURS.index("blue")


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (1, "go to the red key"),
        (2, "pick up the red key"),
        (3, "put the red key next to the blue box"),
    ],
)
def test_instructions_are_words_and_lead_back(level: int, text: str):
    ids_T = np.asarray(instruct(level, jnp.array(RED_KEY), jnp.array(BLUE_BOX)))
    assert decode(ids_T) == text and len(ids_T) == len(TEMPLATES[level])
    np.testing.assert_array_equal(encode(text, len(ids_T)), ids_T)
    assert decode(encode("go to", 9)) == "go to" and encode("go to", 9).tolist()[2:] == [0] * 7


def test_every_look_has_a_name_of_its_own():
    assert len({name_of(look) for look in range(LOOKS)}) == LOOKS
    assert name_of(BLUE_BOX) == "blue box"


def test_what_is_wrong_with_a_text_is_said():
    with pytest.raises(UserError, match="unknown word 'pink'"):
        encode("go to the pink key", 5)
    with pytest.raises(UserError, match="5 words: at most 4"):
        encode("go to the red key", 4)
    with pytest.raises(UserError, match="no split 'test'"):
        posed("test")  # type: ignore[arg-type]


def test_held_out_combinations_are_new_but_their_parts_are_not():
    held_L = held_out_looks()
    train, combinations = posed("train"), posed("combinations")
    assert held_L.sum() == 6
    # training neither names nor shows them, and held-out instructions name nothing else first
    assert not train.named_LxL[held_L].any() and not train.named_LxL[:, held_L].any()
    assert not train.shown_L[held_L].any()
    assert (combinations.named_LxL.any(axis=1) == held_L).all()
    # all other looks are trained: each colour with five kinds, each kind with five colours
    trained_L = train.named_LxL.any(axis=1)
    assert (trained_L == ~held_L).all()
    assert all(trained_L[colour == COLOUR].sum() == 5 for colour in range(len(COLOURS)))
    assert all(trained_L[kind == KIND].sum() == 5 for kind in range(len(KINDS)))


def test_held_out_pairs_are_of_trained_things():
    train, pairs = posed("train"), posed("pairs")
    assert not (train.named_LxL & pairs.named_LxL).any()
    trained_L = ~held_out_looks()
    both_LxL = trained_L[:, None] & trained_L[None] & ~np.eye(LOOKS, dtype=bool)
    assert ((train.named_LxL | pairs.named_LxL) == both_LxL).all(), "together they are all that is possible"
    share = held_out_pairs().sum() / both_LxL.sum()
    assert 0.08 < share < 0.17
    assert (pairs.named_LxL.any(axis=1) == trained_L).all() and (
        pairs.named_LxL.any(axis=0) == trained_L
    ).all()
