"""The smallest networks that reinforcement learning of a captioner can have, with parameters and pictures."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.policy.sampling import forbidden_tokens
from mmrlhf_jax.reward.composite import TERMS, Normaliser, Rules
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.wording import WordTable
from mmrlhf_jax.training.networks import Frozen, Networks, look, no_views

PICTURES, LENGTH, WORDS = 8, 6, 20
_TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
_VISION = VisionConfig(image_size=64, patch_size=32, transformer=_TOWER)
_DECODER = DecoderConfig(vocab_size=24, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16)
_CLIP = CLIPConfig(_VISION, TextConfig(24, LENGTH, _TOWER), 12)
NETWORKS = Networks(
    define_policy(PolicyConfig(_VISION, _DECODER)),
    define(lambda rngs: Decoder(_DECODER, rngs=rngs)),
    define(lambda rngs: CLIP(_CLIP, rngs=rngs)),
    define_reward_model(RewardConfig(_CLIP, "weighted_sum", 16)),
    LENGTH,
    tuple(np.asarray(forbidden_tokens(24, WORDS)).tolist()),
)


def make_rules() -> Rules:
    """Of a vocabulary without a listed word."""
    table = WordTable(jnp.zeros((1, 24), jnp.int16), jnp.zeros((1, 24), jnp.int8), jnp.zeros(1, jnp.int8))
    return Rules(table, jnp.asarray(1.0), jnp.asarray(9.0))


def make_frozen() -> Frozen:
    """Fresh parameters, views of PICTURES random pictures, and a normaliser of 0.5 throughout."""
    networks = (NETWORKS.policy, NETWORKS.language_model, NETWORKS.clip, NETWORKS.reward_model)
    params = [network.init(jax.random.key(i)) for i, network in enumerate(networks)]
    scale = {name: jnp.asarray(0.5) for name in TERMS}
    frozen = Frozen(*params, no_views(), Normaliser(scale, scale), make_rules())
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, 64, 64, 3), dtype=np.uint8)
    return frozen._replace(views=look(NETWORKS, frozen, pictures))
