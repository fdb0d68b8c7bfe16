"""The reward model of a configuration, and the one that a folder holds."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.config import PoolingConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import read_json
from mmrlhf_jax.hub.folder import load_architecture, load_params
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.reward.ensemble import RewardEnsemble
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.reward.vision_language import VisionLanguageReward


def define_reward_model(config: RewardConfig) -> Definition[RewardModel]:
    """The reward model of the given architecture, without parameters.

    Whatever its backbone and however many members it has: `encode` and `judge` are used alike.
    """
    if config.policy is not None:
        return define(lambda rngs: VisionLanguageReward(config, rngs=rngs))
    kind = RewardEnsemble if config.ensemble.members > 1 else RewardModel
    return define(lambda rngs: kind(config, rngs=rngs))


def input_sizes(config: RewardConfig) -> tuple[int, int]:
    """(pixels of a picture's side, tokens of a text at most) that such a model reads."""
    if config.policy is not None:
        return config.policy.vision.image_size, config.policy.text_length
    return config.towers.vision.image_size, config.towers.text.max_length


def load_reward_model(
    folder: Path, ensemble: PoolingConfig = PoolingConfig(), tokenizer: CaptionTokenizer | None = None
) -> tuple[Definition[RewardModel], Params]:
    """The reward model that the reward stage left in `folder`.

    Args:
      ensemble: how its rewards become one, where it is an ensemble.
      tokenizer: whose tokens it shall judge; None: that is seen to elsewhere.

    Raises:
      UserError: the folder is missing or damaged, an ensemble is wanted and it holds a single model, or the
        model reads the tokens of another tokenizer.
    """
    architecture = load_architecture(folder, RewardConfig)
    if tokenizer is not None and not _reads(folder, tokenizer):
        raise UserError(
            f"{folder} reads other tokens than the policy writes: train it with --backbone clip or policy"
        )
    if architecture.ensemble.members == 1 and ensemble != PoolingConfig():
        raise UserError(
            f"{folder} holds a single reward model, which has nothing to pool: train an ensemble, "
            "experiments/reward.py --ensemble.members 4"
        )
    if ensemble.pooling is not None:
        pooled = dataclasses.replace(architecture.ensemble, pooling=ensemble.pooling)
        architecture = dataclasses.replace(architecture, ensemble=pooled)
    model = define_reward_model(architecture)
    params = load_params(folder, model.abstract())
    if ensemble.variance_weight is not None:
        params["variance_weight"] = jnp.asarray(ensemble.variance_weight, jnp.float32)
    return model, params


def _reads(folder: Path, tokenizer: CaptionTokenizer) -> bool:
    """Whether the tokenizer in `folder` is this one."""
    file = folder / "tokenizer.json"
    return file.is_file() and read_json(file) == json.loads(tokenizer.tokenizer.to_str())
