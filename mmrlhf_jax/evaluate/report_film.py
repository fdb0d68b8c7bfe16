"""Episodes as strips of pictures, one frame for each step."""

import dataclasses

import numpy as np

from mmrlhf_jax.evaluate.report_gallery import data_uri
from mmrlhf_jax.evaluate.report_text import escape

_SIDE = 96  # pixels of a frame on the page


@dataclasses.dataclass(frozen=True)
class FilmStrip:
    """One episode.

    Attributes:
      title: what was asked.
      outcome: what came of it, in a few words.
      good: whether that is as it should be.
      frames_TxHxWxC: uint8, the first before any action.

    Raises:
      ValueError: frames of another kind, or none.
    """

    title: str
    outcome: str
    good: bool
    frames_TxHxWxC: np.ndarray

    def __post_init__(self) -> None:
        frames = self.frames_TxHxWxC
        if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames):
            raise ValueError(f"frames of {self.title!r} must be uint8 TxHxWxC: {frames.dtype} {frames.shape}")


def films_html(strips: list[FilmStrip]) -> str:
    """One card for each strip."""
    return "".join(map(_strip, strips))


def _strip(strip: FilmStrip) -> str:
    kind = "met" if strip.good else "missed"
    frames = "".join(
        f'<img src="{data_uri(frame)}" width="{_SIDE}" height="{_SIDE}" '
        f'alt="{"start" if number == 0 else f"after step {number}"}">'
        for number, frame in enumerate(strip.frames_TxHxWxC)
    )
    outcome = f'<span class="pill {kind}">{escape(strip.outcome)}</span>'
    return (
        f'<article class="card film"><div class="named">{escape(strip.title)} {outcome}</div>'
        f'<div class="frames">{frames}</div></article>'
    )
