"""What an actor-critic for environments looks like: sizes and choices that shape arrays. Free of jax."""

import dataclasses
from typing import Literal, get_args

from mmrlhf_jax.architecture import FusionName, TransformerConfig
from mmrlhf_jax.config import finite, positive_int
from mmrlhf_jax.errors import UserError

PolicyKind = Literal["MlpPolicy", "MultiInputPolicy"]
PictureEncoder = Literal["cnn", "vit", "patches"]
HiddenActivation = Literal["tanh", "relu"]


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig:
    """An actor and a critic, on an observation as it is or on what encoders and a fusion make of it."""

    kind: PolicyKind = "MlpPolicy"
    """MlpPolicy: one flat vector. MultiInputPolicy: a dict of pictures, tokens and vectors."""
    actor: tuple[int, ...] = (64, 64)
    """Widths of the actor's hidden layers."""
    critic: tuple[int, ...] = (64, 64)
    activation: HiddenActivation = "tanh"
    log_std_init: float = 0.0
    """First logarithm of the standard deviation of continuous actions."""
    picture: PictureEncoder = "cnn"
    picture_width: int = 256
    """Size of the vector that the CNN makes of a picture."""
    tower: TransformerConfig = dataclasses.field(
        default_factory=lambda: TransformerConfig(width=64, layers=1, heads=4, mlp_width=128)
    )
    """The text tower, and the picture tower where `picture` is vit; its width is that of `patches` too."""
    patch_size: int = 6
    """Where pictures are cut into patches, in pixels."""
    fusion: FusionName = "concat"
    """How the parts of an observation meet."""
    fusion_width: int = 64

    def __post_init__(self) -> None:
        for name in ("actor", "critic"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
            for width in getattr(self, name):
                positive_int(name, width, "64 64")
        for name in ("picture_width", "patch_size", "fusion_width"):
            positive_int(name, getattr(self, name))
        finite("log_std_init", self.log_std_init, "0.0")
        for name, choices in (
            ("kind", PolicyKind),
            ("activation", HiddenActivation),
            ("picture", PictureEncoder),
            ("fusion", FusionName),
        ):
            if getattr(self, name) not in get_args(choices):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: choose one of {', '.join(get_args(choices))}"
                )
