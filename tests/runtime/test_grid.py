import numpy as np
import pytest

from mmrlhf_jax.runtime.grid import caption_grid


def solid(*colours, size=(8, 8)):
    return np.stack([np.broadcast_to(np.array(colour), (*size, len(colour))) for colour in colours])


def test_pictures_lie_row_by_row_and_keep_their_colours():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    grid = caption_grid(solid(*colours).astype(np.uint8), ["a", "b", "c"], columns=2)
    width, height = grid.size[0] // 2, grid.size[1] // 2
    centres = [(width // 2, 60), (width + width // 2, 60), (width // 2, height + 60)]
    assert [grid.getpixel(centre) for centre in centres] == colours
    assert grid.getpixel((width + width // 2, height + 60)) == (255, 255, 255)  # the empty place


def test_captions_are_drawn_under_the_pictures():
    image_NxHxWxC = np.ones((1, 8, 8, 3), np.float32)  # white, so that ink comes from the caption
    blank = np.asarray(caption_grid(image_NxHxWxC, [""]))
    short = np.asarray(caption_grid(image_NxHxWxC, ["red heart"]))
    long = np.asarray(caption_grid(image_NxHxWxC, ["a man with a hat " * 20]))
    assert (blank == 255).all()
    assert (short[:130] == 255).all() and (short[130:] < 255).any()
    assert blank.shape == short.shape == long.shape
    assert (long[-5:] == 255).all()  # cut before it leaves its cell


def test_a_long_word_stays_in_its_column():
    grid = np.asarray(caption_grid(np.ones((1, 8, 8, 3)), ["Donaudampfschifffahrtsgesellschaft " * 5]))
    assert (grid < 255).any()
    assert (grid[:, -6:] == 255).all()


def test_accents_are_drawn():
    def ink(caption):
        return np.asarray(caption_grid(np.ones((1, 8, 8, 3)), [caption]))

    assert (ink("Å") != ink("A")).any() and (ink("Å") != ink("\uffff")).any()


@pytest.mark.parametrize(
    ("colour", "dtype", "expected"),
    [
        ((0.0, 0.5, 1.0), np.float32, (0, 128, 255)),
        ((2.0, -1.0, np.nan), np.float32, (255, 0, 0)),
        ((40,), np.uint8, (40, 40, 40)),
        ((0, 0, 0, 0), np.uint8, (255, 255, 255)),  # transparent: white, not the black behind it
        ((0.0, 0.0, 0.0, 1.0), np.float32, (0, 0, 0)),
    ],
)
def test_kinds_of_pixels(colour, dtype, expected):
    grid = caption_grid(solid(colour).astype(dtype), [""])
    assert grid.getpixel((60, 60)) == expected


def test_pictures_and_captions_must_pair_up():
    with pytest.raises(ValueError, match="2 pictures with 1 captions"):
        caption_grid(np.zeros((2, 4, 4, 3), np.uint8), ["a"])
