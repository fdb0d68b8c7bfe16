"""The networks of reinforcement learning: the policy, its reference, and all judges."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.config import PoolingConfig
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.features import FeatureFolder
from mmrlhf_jax.data.packed import PackedImages
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.mesh_axes import FrozenName
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.reward.composite import Judges, Normaliser, Rules, Views, term_names
from mmrlhf_jax.reward.define import load_reward_model
from mmrlhf_jax.reward.model import RewardModel, Seen
from mmrlhf_jax.reward.text import TextTerm
from mmrlhf_jax.rl.generate import NO_LIMITS, Limits
from mmrlhf_jax.sharding import held
from mmrlhf_jax.training.config import StageConfig, TermsConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.contrastive import NOT_PRETRAINED, Pretrained, load_clip, load_language_model
from mmrlhf_jax.training.judges import make_rules, make_text, rejoined, unshared

FROZEN_PARTS = ("vision", "project_in", "project_out")  # so that a picture is encoded once a run


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of this stage, without parameters, and what is fixed about the text."""

    policy: Definition[VisionLanguagePolicy]
    language_model: Definition[Decoder] | None  # None: the run has none
    clip: Definition[CLIP] | None  # None: the run has none
    reward_model: Definition[RewardModel]
    length: int  # tokens of a completion at most
    forbidden: tuple[bool, ...]  # by token id, True for what is never sampled
    limits: Limits = NO_LIMITS
    text: TextTerm | None = None  # the reward's term that a Python function computes

    def reasons(self) -> dict[str, str]:
        """Why a term of the reward is not finite, by its name, where that is known."""
        return {} if self.text is None else {"text": self.text.failure}

    def terms(self) -> tuple[str, ...]:
        """The names of the reward's terms that can be had with these networks."""
        absent = [name for name in ("language_model", "clip") if getattr(self, name) is None]
        return term_names(self.text, absent)


class Frozen(NamedTuple):
    """All that the step reads and never changes."""

    reference: Params  # the SFT policy, whole
    language_model: Params  # None without one
    clip: Params  # None without one
    reward_model: Params  # without the parts that are the reference or the language model
    views: Views  # of all feedback pictures
    normaliser: Normaliser
    rules: Rules

    def placed(self, how: FrozenName = "sharded") -> "Frozen":
        """The same, on a mesh with the networks cut by their rules or copied."""
        networks = ("reference", "language_model", "clip", "reward_model")
        return self._replace(**{name: held(getattr(self, name), how) for name in networks})


def bind_judges(networks: Networks, frozen: Frozen) -> Judges:
    """The frozen judges with their parameters; what two of them share is computed once."""
    shared = {"captioner": frozen.reference, "language_model": frozen.language_model}
    reward_params = rejoined(networks.reward_model, frozen.reward_model, shared)
    return Judges(
        None if networks.language_model is None else networks.language_model.bind(frozen.language_model),
        None if networks.clip is None else networks.clip.bind(frozen.clip),
        networks.reward_model.bind(reward_params),
        frozen.rules,
        networks.text,
    )


def encode_views(networks: Networks, frozen: Frozen, image_BxHxWxC: jax.Array) -> Views:
    """What the frozen picture towers say of uint8 pictures; `frozen.views` is not read."""
    pixels, judges = to_pixels(image_BxHxWxC), bind_judges(networks, frozen)
    seen = judges.reward_model.encode(pixels)
    if "captioner" not in frozen.reward_model:  # it is the reference, which has these tokens
        seen = seen._replace(captioner_BxPxD=None)
    tokens_BxPxD = networks.policy.bind(frozen.reference).encode(pixels)
    clip_BxD = None if judges.clip is None else unit_length(judges.clip.encode_image(pixels))
    return Views(tokens_BxPxD, seen, clip_BxD)


def no_views() -> Views:
    """Views of no picture: holds the place of what the networks at hand do not need."""
    nothing = jnp.zeros((0,))
    return Views(nothing, Seen(nothing, nothing), nothing)


def look(
    networks: Networks,
    frozen: Frozen,
    image_NxHxWxC: np.ndarray | PackedImages,
    *,
    batch: int = 256,
    folder: FeatureFolder | None = None,
) -> Views:
    """`encode_views` of many pictures, in chunks: on the device, or mapped from `folder`."""

    def compute(rows_B: np.ndarray) -> Views:
        return _encode(networks, frozen, jnp.asarray(image_NxHxWxC[rows_B]))

    if folder is not None:
        one = jnp.asarray(image_NxHxWxC[np.zeros(1, int)])
        shapes = jax.eval_shape(functools.partial(encode_views, networks), frozen, one)
        return folder.open(shapes, compute, len(image_NxHxWxC), batch=batch)
    return jax.tree.map(jnp.asarray, in_chunks(compute, len(image_NxHxWxC), batch))


_encode = jax.jit(encode_views, static_argnums=0)


def load_networks(
    config: StageConfig,
    terms: TermsConfig,
    *,
    limits: Limits = NO_LIMITS,
    ensemble: PoolingConfig = PoolingConfig(),
    without_picture: bool = False,
) -> tuple[Captioner, Networks, Frozen]:
    """The SFT policy and all judges of this run; views and normaliser are still empty.

    A captioner comes from the stage `pretrain`; the run of a policy that reads prompts may be without it, and
    then has neither CLIP nor language model.

    Args:
      without_picture: policy and reward model go by the words alone.
    """
    captioner = Captioner.load(config.folder("sft") / "model")
    if without_picture:
        captioner = captioner.without_picture()
    clip: Pretrained[Any] = NOT_PRETRAINED
    language_model: Pretrained[Any] = NOT_PRETRAINED
    if captioner.architecture.prompt_length == 1 or config.folder("pretrain").exists():
        clip, language_model = load_clip(config), load_language_model(config)
    reward_folder = config.folder(arm("reward", without_picture)) / "model"
    reward_model, reward_params = load_reward_model(reward_folder, ensemble, captioner.tokenizer)
    networks = Networks(
        captioner.policy,
        language_model.definition,
        clip.definition,
        reward_model,
        captioner.architecture.max_length,
        tuple(np.asarray(captioner.forbidden_V).tolist()),
        limits,
        make_text(terms, captioner.tokenizer),
    )
    shared = {"captioner": captioner.params, "language_model": language_model.params}
    frozen = Frozen(
        captioner.params,
        language_model.params,
        clip.params,
        unshared(reward_params, shared),
        no_views(),
        Normaliser({}, {}),
        make_rules(terms, captioner.tokenizer, captioner.architecture.decoder.vocab_size),
    )
    return captioner, networks, frozen
