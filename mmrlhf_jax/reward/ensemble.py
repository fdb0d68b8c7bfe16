"""Ensembles of reward models over one set of towers, in one vmapped program.

Members start from other random numbers and learn from other resamples of the judgements; where they disagree,
the judgements do not decide (Lakshminarayanan et al. 2017, arXiv:1612.01474; for reward models Coste et al.
2023, arXiv:2310.02743). A policy that is paid by the worst member, or less where they disagree, gains less
from what one of them gets wrong.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.config import Bootstrap, Pooling
from mmrlhf_jax.reward.model import Judged, Read, RewardModel, fusion_of, head_of

HEAD_PARTS = ("head", "similarity_weight", "captioner_weight", "language_model_weight")
MEMBER_PARTS = {"heads": HEAD_PARTS, "fusions": ("fusion", *HEAD_PARTS)}

POISSON_CDF = tuple(math.exp(-1) * sum(1 / math.factorial(i) for i in range(k + 1)) for k in range(12))


class RewardEnsemble(RewardModel):
    """K reward models that share towers, captioner and language model, and with "heads" the fusion.

    Its parameters are those of a `RewardModel`, with a leading axis of size K on the parts that each member
    has of its own. `encode` and `judge` are used like a `RewardModel`'s.

    Comparisons leave open at which level a member's rewards lie. `level` (K,), which is set after training
    (see `levels`), is taken off: members then differ in what they say and not in where they started.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        ensemble = config.ensemble
        self.pooling = ensemble.pooling
        self.parts = MEMBER_PARTS[ensemble.kind]
        self.variance_weight = nnx.Param(jnp.asarray(ensemble.variance_weight, jnp.float32))
        self.level = nnx.Param(jnp.zeros(ensemble.members, jnp.float32))
        fresh = {"fusion": fusion_of, "head": head_of}
        for name in self.parts:
            first = getattr(self, name)
            others = [
                fresh[name](config, rngs=rngs) if name in fresh else first
                for _ in range(ensemble.members - 1)
            ]
            setattr(self, name, _stacked([first, *others]))

    def weigh(self, read: Read) -> Judged:
        """All members at once; the pooled reward is what `judge` gives."""
        # mypy takes the result for a tuple of two
        split: Any = nnx.split(self, lambda path, _: path[0] in self.parts, ...)
        graphdef, members, shared = split

        def member(params: nnx.State) -> Judged:
            return RewardModel.weigh(nnx.merge(graphdef, params, shared), read)

        judged = jax.vmap(member)(members)
        weights_BxM = None if judged.weights_BxM is None else jnp.mean(judged.weights_BxM, axis=0)
        rewards_KxB = judged.reward_B - jax.lax.stop_gradient(self.level[...])[:, None]
        reward_B = pool(rewards_KxB, self.pooling, self.variance_weight[...])
        return Judged(reward_B, weights_BxM, rewards_KxB)


def pool(rewards_KxB: jax.Array, pooling: Pooling, variance_weight: jax.Array | float) -> jax.Array:
    """One reward (B,) of K members': mean, WCO and UWO of Coste et al. 2023 (arXiv:2310.02743).

    mean_k r_k, min_k r_k, or mean_k r_k - lambda var_k r_k, the variance being that of the K numbers.
    """
    match pooling:
        case "mean":
            return jnp.mean(rewards_KxB, axis=0)
        case "worst":
            return jnp.min(rewards_KxB, axis=0)
        case "mean_minus_variance":
            return jnp.mean(rewards_KxB, axis=0) - variance_weight * jnp.var(rewards_KxB, axis=0)


def levels(rewards_KxN: jax.Array) -> jax.Array:
    """How far each member's mean over the same N answers lies above that of all members, (K,)."""
    return jnp.mean(rewards_KxN, axis=1) - jnp.mean(rewards_KxN)


def bootstrap_weights(key: jax.Array, members: int, size: int, kind: Bootstrap) -> jax.Array:
    """How often each of `size` judgements counts for each member, (K, size) float32, a row a member.

    "multinomial": how often it comes in `size` draws with replacement (Efron 1979). "poisson": independent
    counts of mean 1, the limit of that for many judgements (Oza, Russell 2001). "none": 1. A member's row
    depends on `key` and its number alone, not on how many others there are.
    """

    def row(member: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, member)
        match kind:
            case "none":
                return jnp.ones(size, jnp.float32)
            case "poisson":
                uniform = jax.random.uniform(own, (size,))  # jax.random.poisson takes seconds to compile
                return jnp.sum(uniform[:, None] > jnp.asarray(POISSON_CDF)[None], axis=1, dtype=jnp.float32)
            case "multinomial":
                drawn = jax.random.randint(own, (size,), 0, size)
                return jnp.zeros(size, jnp.float32).at[drawn].add(1.0)

    return jax.vmap(row)(jnp.arange(members))


def _stacked(parts: list[Any]) -> Any:
    """One part, whose parameters are those of all `parts` on a new leading axis."""
    if isinstance(parts[0], nnx.Param):
        return nnx.Param(jnp.stack([part[...] for part in parts]))
    graphdef, _ = nnx.split(parts[0])
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, parts)))
