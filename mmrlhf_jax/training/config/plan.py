"""What a plan of a run on many devices is told. Free of jax."""

import dataclasses
import math
from typing import Literal

from mmrlhf_jax.config import one_of, positive, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.mesh_axes import parse_mesh, row_shares
from mmrlhf_jax.training.config.adapt import AdaptName, CriticName

ModelName = Literal["llava-1.5-7b", "llava-1.5-13b", "llava-1b", "tiny"]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """One step of PPO: policy, reference and a reward model of the policy's size."""

    preset: str = "llava-1.5-7b"
    model: ModelName = "llava-1.5-7b"
    """CLIP ViT-L/14-336 and a decoder of Llama's family of 7, 13 or 1 billion parameters; tiny: for tests."""
    mesh: str = "data=8,fsdp=8"
    """Devices by axis; as many are pretended."""
    batch: int = 64
    """Completions in a rollout."""
    minibatches: int = 1
    microbatches: int = 1
    epochs: int = 1
    prompt_length: int = 64
    """Tokens before the picture and the completion."""
    max_length: int = 128
    """Tokens of a completion."""
    adapt: AdaptName = "full"
    """What of the policy is trained."""
    critic: CriticName = "trunk"
    """Where values are learned: a head on the policy, or a network of its own."""
    frozen_dtype: Dtype = "bfloat16"
    """Of reference and reward model; what is trained is float32."""
    remat: bool = True
    """Compute blocks anew in the backward pass."""
    utilisation: float = 0.4
    """Share of a chip's peak that products of matrices reach."""
    json: str = ""
    """A file for the plan's numbers."""

    def __post_init__(self) -> None:
        one_of(ModelName, self.model, "model")
        one_of(CriticName, self.critic, "critic")
        one_of(Dtype, self.frozen_dtype, "frozen_dtype")
        for name in ("batch", "minibatches", "microbatches", "epochs", "prompt_length", "max_length"):
            positive_int(name, getattr(self, name), "64")
        positive("utilisation", self.utilisation, "0.4")
        shares = row_shares(self.mesh)
        if self.batch % (self.minibatches * self.microbatches * shares):
            raise UserError(
                f"batch is {self.batch}: give a multiple of minibatches x microbatches x the mesh's data x "
                f"fsdp, {self.minibatches * self.microbatches * shares}"
            )

    @property
    def devices(self) -> int:
        """How many the mesh has."""
        return math.prod(parse_mesh(self.mesh).values())
