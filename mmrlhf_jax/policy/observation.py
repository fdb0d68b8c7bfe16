"""Encoders of observations: what a policy, or a reward on steps, sees of its environment."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.architecture import TextConfig, VisionConfig
from mmrlhf_jax.encoders.text import TextTransformer
from mmrlhf_jax.encoders.vit import VisionTransformer, patches
from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, Leaf, MultiDiscrete, Space, Tokens
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion import Masks, build_fusion

# (kernel, stride, channels) of the layers; the first are those of Mnih et al. 2015, for 36 pixels and more.
_NATURE = ((8, 4, 32), (4, 2, 64), (3, 1, 64))
_SMALL = ((4, 2, 32), (3, 1, 64))
_NATURE_SIDE, _SMALL_SIDE = 36, 8


Encoder = Callable[..., Any]  # a module


class ObservationEncoder(nnx.Module):
    """An observation as one vector: flattened, or for a dict an encoder for each part and a fusion.

    Pictures pass through a CNN, a vision transformer or layers that read each patch by itself, tokens through
    a text tower, vectors enter as they are.
    """

    def __init__(self, space: Space, config: ActorCriticConfig, *, rngs: nnx.Rngs):
        self.space = space
        if not isinstance(space, Dict):
            self.width = flat_size(space)
            return
        self.encoders = nnx.Dict(
            {name: encoder for name, part in space.items() if (encoder := _encoder(part, config, rngs))}
        )
        widths = {name: _encoded_width(part, config) for name, part in space.items()}
        self.fusion = build_fusion(config.fusion, widths, width=config.fusion_width, rngs=rngs)
        self.width = config.fusion_width

    def __call__(self, observation: Observation) -> jax.Array:
        """(B, width)."""
        if not isinstance(self.space, Dict):
            return flatten(self.space, observation)
        features, masks = {}, {}
        for name, part in self.space.items():
            if isinstance(part, Tokens):
                masks[name] = observation[name] != 0
                features[name] = self.encoders[name](observation[name], masks[name]).tokens_BxTxD
            elif _is_picture(part):
                features[name] = self.encoders[name](observation[name])
            else:
                features[name] = flatten(part, observation[name])
        return self.fusion(features, Masks(tokens=masks)).vector_BxD


class Mlp(nnx.Module):
    """Linear layers, each followed by the activation; orthogonal at the start with gain sqrt(2)."""

    def __init__(self, inputs: int, widths: tuple[int, ...], activation: str, *, rngs: nnx.Rngs):
        sizes = (inputs, *widths)
        self.activation = activation
        self.layers = nnx.List(
            [linear(a, b, math.sqrt(2), rngs) for a, b in zip(sizes, widths, strict=False)]
        )
        self.width = sizes[-1]

    def __call__(self, x_BxK: jax.Array) -> jax.Array:
        for layer in self.layers:
            x_BxK = layer(x_BxK)
            x_BxK = jnp.tanh(x_BxK) if self.activation == "tanh" else jax.nn.relu(x_BxK)
        return x_BxK


class PictureCnn(nnx.Module):
    """The convolutions of Mnih et al. 2015 (doi:10.1038/nature14236) and a linear layer, with relu.

    Each convolution is a matrix product over cut-out windows: on a CPU its gradient is several times as fast.
    Pictures under 36 pixels pass through two smaller ones.
    """

    def __init__(self, shape: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        height, across, channels = shape
        side = min(height, across)
        if side < _SMALL_SIDE:
            raise UserError(f"a picture of {across}x{height} pixels: the CNN reads {_SMALL_SIDE} and more")
        self.stages = _NATURE if side >= _NATURE_SIDE else _SMALL
        layers = []
        for kernel, stride, features in self.stages:
            layers.append(linear(kernel * kernel * channels, features, math.sqrt(2), rngs))
            height, across = ((length - kernel) // stride + 1 for length in (height, across))
            channels = features
        self.layers = nnx.List(layers)
        self.out = linear(height * across * channels, width, math.sqrt(2), rngs)

    def __call__(self, image_BxHxWxC: jax.Array) -> jax.Array:
        """Pictures of 0-255 to vectors (B, width)."""
        x_BxHxWxC = image_BxHxWxC.astype(jnp.float32) / 255.0
        for layer, (kernel, stride, _) in zip(self.layers, self.stages, strict=True):
            cut_BxHxWxK = windows(x_BxHxWxC, kernel, stride)
            flat_NxD = jax.nn.relu(layer(cut_BxHxWxK.reshape(-1, cut_BxHxWxK.shape[-1])))
            x_BxHxWxC = flat_NxD.reshape(*cut_BxHxWxK.shape[:3], -1)
        return jax.nn.relu(self.out(x_BxHxWxC.reshape(x_BxHxWxC.shape[0], -1)))


def windows(x_BxHxWxC: jax.Array, kernel: int, stride: int) -> jax.Array:
    """The windows that a convolution without padding sees, (B, H', W', kernel x kernel x C).

    The picture is cut into blocks of stride x stride pixels once, and a window is kernel / stride blocks a
    side, row by row, each with its pixels row by row. `stride` divides `kernel`.
    """
    batch, height, width, channels = x_BxHxWxC.shape
    side = kernel // stride  # of a window, in blocks
    rows, columns = ((length - kernel) // stride + 1 for length in (height, width))
    down, across = rows + side - 1, columns + side - 1
    used = x_BxHxWxC[:, : down * stride, : across * stride]
    grid = used.reshape(batch, down, stride, across, stride * channels).transpose(0, 1, 3, 2, 4)
    blocks = grid.reshape(batch, down, across, -1)
    cut = [blocks[:, i : i + rows, j : j + columns] for i in range(side) for j in range(side)]
    return jnp.concatenate(cut, axis=-1)


class PicturePatches(nnx.Module):
    """Each patch by itself through two linear layers with relu between; plus what its row and column are.

    For pictures whose patches mean something alone, such as the cells of a grid: what lies where is left to
    the fusion, and of all picture encoders this one costs least.
    """

    def __init__(self, shape: tuple[int, ...], patch: int, width: int, *, rngs: nnx.Rngs):
        height, across, channels = shape
        if height % patch or across % patch:
            raise UserError(
                f"a picture of {across}x{height} pixels: patch_size {patch} must divide both sides"
            )
        self.patch = patch
        self.hidden = linear(patch * patch * channels, width, math.sqrt(2), rngs)
        self.out = linear(width, width, 1.0, rngs)
        normal = nnx.initializers.normal(0.25)  # of the size of what a patch says
        self.rows = nnx.Param(normal(rngs.params(), (height // patch, width)))
        self.columns = nnx.Param(normal(rngs.params(), (across // patch, width)))

    def __call__(self, image_BxHxWxC: jax.Array) -> jax.Array:
        """Pictures of 0-255 to tokens (B, P, width)."""
        cut_BxPxK = patches(image_BxHxWxC, self.patch)
        flat_NxK = cut_BxPxK.reshape(-1, cut_BxPxK.shape[-1]).astype(jnp.float32) / 255.0
        token_NxD = self.out(jax.nn.relu(self.hidden(flat_NxK)))
        place_RxCxD = self.rows[...][:, None] + self.columns[...][None]
        return token_NxD.reshape(*cut_BxPxK.shape[:2], -1) + place_RxCxD.reshape(1, cut_BxPxK.shape[1], -1)


class _PictureTransformer(nnx.Module):
    """A vision transformer's patches of pictures of 0-255."""

    def __init__(self, shape: tuple[int, ...], config: ActorCriticConfig, *, rngs: nnx.Rngs):
        height, width, channels = shape
        if channels != 3 or height != width:
            raise UserError(f"pictures of {width}x{height}x{channels}: picture='vit' reads square RGB ones")
        vision = VisionConfig(height, config.patch_size, config.tower, class_token=False, pooling="mean")
        self.tower = VisionTransformer(vision, rngs=rngs)

    def __call__(self, image_BxHxWxC: jax.Array) -> jax.Array:
        return self.tower(image_BxHxWxC.astype(jnp.float32) / 127.5 - 1.0).tokens_BxTxD


def linear(inputs: int, outputs: int, gain: float, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer, orthogonal at the start, without bias then."""
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.orthogonal(gain), rngs=rngs)


def _encoder(part: Leaf, config: ActorCriticConfig, rngs: nnx.Rngs) -> Encoder | None:
    """What reads this part of an observation; None: nothing, it is a vector."""
    if isinstance(part, Tokens):
        text = TextConfig(part.vocab_size, part.length, config.tower, causal=False)
        return TextTransformer(text, rngs=rngs)
    if not _is_picture(part):
        return None
    if config.picture == "vit":
        return _PictureTransformer(part.shape, config, rngs=rngs)
    if config.picture == "patches":
        return PicturePatches(part.shape, config.patch_size, config.tower.width, rngs=rngs)
    return PictureCnn(part.shape, config.picture_width, rngs=rngs)


def _is_picture(part: Leaf) -> bool:
    return isinstance(part, Box) and part.is_picture


def _encoded_width(part: Leaf, config: ActorCriticConfig) -> int:
    if isinstance(part, Tokens):
        return config.tower.width
    if _is_picture(part):
        return config.picture_width if config.picture == "cnn" else config.tower.width
    return flat_size(part)


def flat_size(space: Leaf) -> int:
    """How many numbers `flatten` gives."""
    match space:
        case Discrete(n=n):
            return n
        case MultiDiscrete(sizes=sizes):
            return sum(sizes)
        case Tokens(length=length, vocab_size=vocab_size):
            return length * vocab_size
        case _:
            return math.prod(space.shape)


def flatten(space: Leaf, value: jax.Array) -> jax.Array:
    """(B, K) float32: whole numbers one-hot, pictures from 0 to 1, as SB3's preprocessing."""
    rows = value.shape[0]
    match space:
        case Discrete(n=n):
            return jax.nn.one_hot(value, n)
        case MultiDiscrete(sizes=sizes):
            return jnp.concatenate([jax.nn.one_hot(value[:, k], n) for k, n in enumerate(sizes)], axis=-1)
        case Tokens(vocab_size=vocab_size):
            return jax.nn.one_hot(value, vocab_size).reshape(rows, -1)
        case _:
            scale = 255.0 if space.is_picture else 1.0
            return value.astype(jnp.float32).reshape(rows, -1) / scale
