"""An algorithm as a combination of parts: advantages x loss x KL. Free of jax, for command lines."""

import dataclasses
from typing import Literal

from mmrlhf_jax.config import positive_int
from mmrlhf_jax.errors import UserError

AdvantageName = Literal["gae", "returns", "batch_mean", "leave_one_out", "group", "group_centred"]
LossName = Literal["clip", "plain"]
MeanName = Literal["token", "sequence", "constant"]
RatioName = Literal["token", "sequence"]
KLName = Literal["k1", "k2", "k3"]
KLPlace = Literal["reward", "loss"]
DPOLossName = Literal["sigmoid", "ipo", "hinge"]
AlgorithmName = Literal["ppo", "a2c", "reinforce", "rloo", "grpo", "dr_grpo", "gspo"]

GROUPED = ("leave_one_out", "group", "group_centred")


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Choices that shape the compiled step; rates are traced and stand elsewhere.

    Attributes:
      advantage: see `rl.advantages.estimate_advantages`.
      whiten: advantages to zero mean and unit variance over the rollout's tokens.
      loss: "clip", PPO's surrogate, or "plain", -A log p.
      mean: how the tokens' losses become one number, see `rl.losses.mean_parts`.
      ratio: of each token, or one of the whole completion (GSPO); only for "clip".
      clip_value: whether the critic's step is bounded too.
      dual_clip: whether the loss of unlikely bad tokens is bounded (Ye et al. 2020).
      kl: estimator, see `rl.kl.kl_estimate`.
      kl_in: whether the KL is taken off the reward or added to the loss.
      group: completions of each prompt.
      epochs, minibatches: passes over each rollout, and gradient steps in a pass.
      microbatches: parts of a minibatch whose gradients are added up, for want of memory.
    """

    advantage: AdvantageName = "gae"
    whiten: bool = False
    loss: LossName = "clip"
    mean: MeanName = "token"
    ratio: RatioName = "token"
    clip_value: bool = True
    dual_clip: bool = False
    kl: KLName = "k1"
    kl_in: KLPlace = "reward"
    group: int = 1
    epochs: int = 2
    minibatches: int = 2
    microbatches: int = 1

    def __post_init__(self) -> None:
        for name in ("group", "epochs", "minibatches", "microbatches"):
            positive_int(name, getattr(self, name), "2")
        if self.advantage in GROUPED and self.group < 2:
            raise UserError(
                f"group is {self.group}: advantages of kind {self.advantage!r} compare completions of one "
                "prompt; give e.g. --group 8"
            )
        if self.loss == "plain" and self.epochs * self.minibatches > 1:
            raise UserError(
                "epochs or minibatches above 1: a loss without a ratio holds for the policy that sampled and "
                "no other; leave both at 1, or choose an algorithm with a clipped ratio"
            )
        if self.kl_in == "loss" and self.kl == "k1":
            raise UserError("kl k1 in the loss has a gradient of zero on average: give --kl k2 or k3")

    @property
    def critic(self) -> bool:
        """Whether values are learned and used."""
        return self.advantage in ("gae", "returns")

    def check_batch(self, batch: int, *, shares: int = 1) -> None:
        """Raises UserError unless `batch` completions can be cut into groups and micro- and minibatches.

        Args:
          shares: equal parts of a micro- or minibatch, each on devices of its own.
        """
        if batch % self.group:
            raise UserError(f"--batch {batch} cannot be cut into groups of {self.group}: give a multiple")
        if batch % self.minibatches:
            raise UserError(
                f"--batch {batch} cannot be cut into {self.minibatches} --minibatches: give a multiple"
            )
        if batch // self.minibatches % self.microbatches:
            raise UserError(
                f"{batch // self.minibatches} completions of a minibatch cannot be cut into "
                f"{self.microbatches} --microbatches: give a divisor"
            )
        rows = batch // self.minibatches // self.microbatches
        if rows % shares:
            raise UserError(
                f"{rows} completions at a time cannot be cut into the {shares} parts of --mesh: "
                "give a larger --batch, fewer --minibatches or fewer --microbatches"
            )


_GRPO = Algorithm("group", mean="sequence", kl="k3", kl_in="loss", group=8)

# PPO: Schulman et al. 2017, arXiv:1707.06347, with the KL of Ziegler et al. 2019, arXiv:1909.08593.
# A2C: Mnih et al. 2016, arXiv:1602.01783. REINFORCE: Williams 1992.
# RLOO: Ahmadian et al. 2024, arXiv:2402.14740; clipped, so that a rollout serves several steps.
# GRPO: Shao et al. 2024, arXiv:2402.03300. Dr. GRPO: Liu et al. 2025, arXiv:2503.20783.
# GSPO: Zheng et al. 2025, arXiv:2507.18071; its ratios are means over tokens, so --clip 3e-4 is usual.
ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(whiten=True),
    "a2c": Algorithm("returns", loss="plain", clip_value=False, epochs=1, minibatches=1),
    "reinforce": Algorithm("batch_mean", loss="plain", mean="constant", epochs=1, minibatches=1),
    "rloo": Algorithm("leave_one_out", mean="constant", group=8),
    "grpo": _GRPO,
    "dr_grpo": dataclasses.replace(_GRPO, advantage="group_centred", mean="constant"),
    "gspo": dataclasses.replace(_GRPO, ratio="sequence"),
}
