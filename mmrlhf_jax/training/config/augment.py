"""How examples are varied in training."""

import dataclasses

from mmrlhf_jax.config import decay_rate, fraction, non_negative


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How training pictures are varied on the device (see `data/augment.py`); 0 leaves a way out."""

    shift: float = 4.0
    """Pixels by which a picture is moved at most."""
    zoom: float = 0.0
    """Share by which it is made larger or smaller at most."""
    crop: float = 0.0
    """Share of its sides that a window cut out of it loses at most."""
    flip: float = 0.0
    """Probability of a mirror image, where no text about it names a side or writing."""
    colour: float = 0.0
    """Share by which brightness, contrast and saturation change at most, where no text names a colour."""
    cutout: float = 0.0
    """Side of a square that is whitened, as a share of the picture's."""

    def __post_init__(self) -> None:
        non_negative("augment.shift", self.shift, "4")
        for name in ("zoom", "crop", "colour", "cutout"):
            decay_rate(f"augment.{name}", getattr(self, name), "0.2")
        fraction("augment.flip", self.flip, "0.5")


@dataclasses.dataclass(frozen=True)
class JudgementAugmentConfig(AugmentConfig):
    """How pictures and answers of judgements are varied on the device; 0 leaves a way out."""

    mix: float = 0.0
    """Share of the judgements of which picture and answers are joined with another's, where they fit."""
    word_dropout: float = 0.0
    """Probability with which each word of an answer is left out."""
    synonyms: float = 0.0
    """Probability with which a word is replaced by another that people use of the same pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decay_rate("augment.word_dropout", self.word_dropout, "0.1")
        for name in ("mix", "synonyms"):
            fraction(f"augment.{name}", getattr(self, name), "0.2")
