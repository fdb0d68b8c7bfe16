"""Distributions over actions: categorical, several categorical ones, and a diagonal Gaussian.

Sampling takes noise that was drawn before: random numbers are cheapest drawn for a whole rollout at once.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, Space
from mmrlhf_jax.errors import UserError


class Categorical(NamedTuple):
    """One of A actions; an action is an int32 in 0 .. A - 1."""

    logits_BxA: jax.Array

    def sample(self, noise_BxA: jax.Array) -> jax.Array:
        """Gumbel-max: exact samples of softmax(logits), from standard Gumbel noise."""
        return jnp.argmax(self.logits_BxA + noise_BxA, axis=-1).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The likeliest action."""
        return jnp.argmax(self.logits_BxA, axis=-1).astype(jnp.int32)

    def logprobs(self, action_B: jax.Array) -> jax.Array:
        """log p(action), (B,) in nats."""
        chosen = action_B[:, None] == jnp.arange(self.logits_BxA.shape[-1])[None]  # cheaper than a gather
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits_BxA), 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """(B,) in nats."""
        logprobs_BxA = jax.nn.log_softmax(self.logits_BxA)
        return -jnp.sum(jnp.exp(logprobs_BxA) * logprobs_BxA, axis=-1)


class MultiCategorical(NamedTuple):
    """K independent choices; an action is int32 (K,)."""

    parts: tuple[Categorical, ...]

    def sample(self, noise_BxN: jax.Array) -> jax.Array:
        """(B, K); the noise of all parts side by side."""
        widths = [part.logits_BxA.shape[-1] for part in self.parts]
        cuts = [sum(widths[: k + 1]) for k in range(len(widths) - 1)]
        noises = jnp.split(noise_BxN, cuts, axis=-1)
        return jnp.stack([p.sample(n) for p, n in zip(self.parts, noises, strict=True)], axis=-1)

    def mode(self) -> jax.Array:
        """The likeliest action, (B, K)."""
        return jnp.stack([part.mode() for part in self.parts], axis=-1)

    def logprobs(self, action_BxK: jax.Array) -> jax.Array:
        """Sum over the parts, (B,) in nats."""
        logprobs = [part.logprobs(action_BxK[:, k]) for k, part in enumerate(self.parts)]
        return jnp.sum(jnp.stack(logprobs), axis=0)

    def entropy(self) -> jax.Array:
        """Sum over the parts, (B,) in nats."""
        return jnp.sum(jnp.stack([part.entropy() for part in self.parts]), axis=0)


class DiagonalGaussian(NamedTuple):
    """Independent normal entries, without bounds: whoever steps the environment cuts the action."""

    mean_BxD: jax.Array
    log_std_D: jax.Array

    def sample(self, noise_BxD: jax.Array) -> jax.Array:
        """mean + exp(log_std) noise, from standard normal noise."""
        return self.mean_BxD + jnp.exp(self.log_std_D)[None] * noise_BxD

    def mode(self) -> jax.Array:
        """The mean."""
        return self.mean_BxD

    def logprobs(self, action_BxD: jax.Array) -> jax.Array:
        """Sum over the entries, (B,) in nats."""
        z_BxD = (action_BxD - self.mean_BxD) * jnp.exp(-self.log_std_D)[None]
        constant = 0.5 * math.log(2 * math.pi)
        return -jnp.sum(0.5 * jnp.square(z_BxD) + self.log_std_D[None] + constant, axis=-1)

    def entropy(self) -> jax.Array:
        """Sum over the entries, (B,) in nats."""
        entropy = jnp.sum(self.log_std_D + 0.5 * math.log(2 * math.pi * math.e))
        return jnp.broadcast_to(entropy, self.mean_BxD.shape[:1])


Distribution = Categorical | MultiCategorical | DiagonalGaussian


def distribution_width(space: Space) -> int:
    """How many numbers the actor gives for an action of `space`.

    Raises:
      UserError: actions of such a space cannot be drawn.
    """
    match _supported(space):
        case Discrete(n=n):
            return n
        case MultiDiscrete(sizes=sizes):
            return sum(sizes)
        case other:
            return math.prod(other.shape)


def distribution(space: Space, outputs_BxN: jax.Array, log_std_D: jax.Array | None) -> Distribution:
    """The distribution that the actor's outputs describe; `log_std_D` is of Box actions alone."""
    match _supported(space):
        case MultiDiscrete(sizes=sizes):
            cuts = [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)]
            return MultiCategorical(tuple(map(Categorical, jnp.split(outputs_BxN, cuts, axis=-1))))
        case Box() if log_std_D is not None:
            return DiagonalGaussian(outputs_BxN, log_std_D)
        case _:
            return Categorical(outputs_BxN)


def draw_noise(space: Space, key: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    """What `sample` needs, (*leading, N)."""
    draw = jax.random.normal if isinstance(space, Box) else jax.random.gumbel
    return draw(key, (*leading, distribution_width(space)))


def as_action(space: Space, action: jax.Array) -> jax.Array:
    """A sampled action as the environment takes it: of the space's shape, within a Box's bounds."""
    if not isinstance(space, Box):
        return action
    low, high = space.bounds()
    shaped = action.reshape(*action.shape[:-1], *space.shape)
    return jnp.clip(shaped, jnp.asarray(low)[None], jnp.asarray(high)[None])


def _supported(space: Space) -> Leaf:
    if isinstance(space, Discrete | MultiDiscrete) or (isinstance(space, Box) and space.dtype == "float32"):
        return space
    raise UserError(f"actions of {space}: only Discrete, MultiDiscrete and Box of float32 are supported")
