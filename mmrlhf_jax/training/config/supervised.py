"""Pretraining and supervised fine-tuning."""

import dataclasses

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig
from mmrlhf_jax.config import OptimizerConfig, decay_rate, non_negative_int, positive_int
from mmrlhf_jax.training.config.augment import AugmentConfig
from mmrlhf_jax.training.config.stage import SplitConfig, StageConfig


@dataclasses.dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Trains a CLIP on pictures and their names, and a language model on the names alone."""

    clip: CLIPConfig = dataclasses.field(default_factory=CLIPConfig)
    language_model: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    image_size: int | None = None
    """Pixels of a picture's side; by default those of --clip.vision.image-size."""
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    """How pictures of your own are parted."""
    steps: int = 300
    batch: int = 128
    """Pictures in a step."""
    stream: bool = False
    """Read pictures of your own from disk step by step, for sets larger than memory (extra `data`)."""
    workers: int = 4
    """Threads that read and decode ahead, with stream."""
    neighbours: int = 12
    """CLIP tells each picture from one of so many names that read most like its own; 0: from none."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "workers"):
            positive_int(name, getattr(self, name))
        non_negative_int("neighbours", self.neighbours)
        if self.image_size is not None:
            self.sized()

    def sized(self) -> CLIPConfig:
        """The CLIP for pictures of `image_size`."""
        size = self.clip.vision.image_size if self.image_size is None else self.image_size
        return dataclasses.replace(self.clip, vision=dataclasses.replace(self.clip.vision, image_size=size))


@dataclasses.dataclass(frozen=True)
class SFTConfig(StageConfig):
    """Trains a policy, made of CLIP's picture tower and the language model, to write the names."""

    steps: int = 400
    batch: int = 128
    """Pictures in a step."""
    stream: bool = False
    """Read pictures of your own from disk step by step, for sets larger than memory (extra `data`)."""
    workers: int = 4
    """Threads that read and decode ahead, with stream."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    picture_dropout: float = 0.0
    """How often training leaves the picture out, so that the policy can go by its prompt alone."""
    eval_every: int = 100
    """Steps between two looks at the held-out loss."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        decay_rate("picture_dropout", self.picture_dropout, "0.2")
        for name in ("steps", "batch", "eval_every", "workers"):
            positive_int(name, getattr(self, name))
