"""A trained policy as its users meet it: pictures in, and words where it was trained on some; texts out."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.sampling import begin_prompts, encode_prompts, forbidden_tokens, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.rl.generate import masked_logits
from mmrlhf_jax.types import Completions, Prompts


@functools.cache
def define_policy(config: PolicyConfig) -> Definition[VisionLanguagePolicy]:
    """The policy of the given architecture, without parameters; always the same object, so that what was
    compiled for one policy serves others of its architecture.
    """
    return define(lambda rngs: VisionLanguagePolicy(config, rngs=rngs))


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A policy, its parameters and its tokenizer."""

    architecture: PolicyConfig
    policy: Definition[VisionLanguagePolicy]
    params: Params
    tokenizer: CaptionTokenizer

    def __post_init__(self):
        if self.architecture.image_token_id is not None:
            raise UserError(
                "image_token_id is given, but a captioner's picture stands before the prompt: leave it out"
            )

    @classmethod
    def load(cls, folder: str | Path) -> "Captioner":
        """Reads what `save` wrote. Raises UserError for a missing, damaged or foreign folder."""
        architecture = load_architecture(folder, PolicyConfig)
        policy = define_policy(architecture)
        params = load_params(folder, policy.abstract())
        return cls(architecture, policy, params, CaptionTokenizer.load(folder))

    def without_picture(self) -> "Captioner":
        """The same policy with its eyes shut: it goes by the prompt alone."""
        architecture = dataclasses.replace(self.architecture, picture=False)
        return dataclasses.replace(self, architecture=architecture, policy=define_policy(architecture))

    def save(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer's files."""
        self.tokenizer.save(folder)
        save_model(folder, self.architecture, self.params)

    @property
    def forbidden_V(self) -> jax.Array:
        """True for the tokens that are never sampled."""
        return forbidden_tokens(self.architecture.decoder.vocab_size, self.tokenizer.vocab_size)

    def prompts(self, said: Sequence[str] | None, rows: int) -> Prompts:
        """What the policy continues: what was said to each picture, or, for None, nothing.

        Raises:
          UserError: something is said to a policy that reads no words.
        """
        if said is None:
            return begin_prompts(rows)
        if self.architecture.prompt_length == 1:
            raise UserError("this policy was trained without prompts: give it pictures alone")
        return encode_prompts(said, self.tokenizer, self.architecture.prompt_length)

    def caption(
        self,
        image_NxHxWxC: np.ndarray,
        said: Sequence[str] | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        batch: int = 256,
    ) -> list[str]:
        """One text for each picture (uint8, of the architecture's size); temperature 0 is greedy.

        Args:
          said: the prompt that comes with each picture, of a policy that was trained on prompts.
        """
        completions = self.sample(image_NxHxWxC, said, temperature=temperature, seed=seed, batch=batch)
        return self.tokenizer.decode_batch(np.asarray(completions.ids_BxT))

    def sample(
        self,
        image_NxHxWxC: np.ndarray,
        said: Sequence[str] | None = None,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        batch: int = 256,
    ) -> Completions:
        """One completion for each picture, as tokens; arguments as of `caption`."""
        key = jax.random.key(seed)
        prompts = self.prompts(said, len(image_NxHxWxC))
        return in_chunks(
            lambda rows_B: _write(
                self.policy,
                self.architecture.max_length,
                self.params,
                self.forbidden_V,
                jnp.asarray(image_NxHxWxC[rows_B]),
                jax.tree.map(lambda leaf: leaf[rows_B], prompts),
                jax.random.fold_in(key, rows_B[0]),
                temperature,
            ),
            len(image_NxHxWxC),
            batch,
        )

    def logprobs(
        self,
        image_NxHxWxC: np.ndarray,
        completions: Completions,
        said: Sequence[str] | None = None,
        *,
        temperature: float = 1.0,
        batch: int = 256,
    ) -> np.ndarray:
        """Log-probability (N,) in nats of whole completions, when sampled at `temperature`."""
        prompts = self.prompts(said, len(image_NxHxWxC))
        return in_chunks(
            lambda rows_B: _score(
                self.policy,
                self.params,
                self.forbidden_V,
                jnp.asarray(image_NxHxWxC[rows_B]),
                jax.tree.map(lambda leaf: leaf[rows_B], prompts),
                jax.tree.map(lambda leaf: jnp.asarray(leaf[rows_B]), completions),
                temperature,
            ),
            len(image_NxHxWxC),
            batch,
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _write(
    definition: Definition[VisionLanguagePolicy],
    length: int,
    params: Params,
    forbidden_V: jax.Array,
    image_BxHxWxC: jax.Array,
    prompts: Prompts,
    key: jax.Array,
    temperature: jax.Array,
) -> Completions:
    policy = definition.bind(params)
    return sample_completions(
        policy,
        policy.encode(to_pixels(image_BxHxWxC)),
        prompts,
        key,
        length=length,
        forbidden_V=forbidden_V,
        temperature=temperature,
    )


@functools.partial(jax.jit, static_argnums=0)
def _score(
    definition: Definition[VisionLanguagePolicy],
    params: Params,
    forbidden_V: jax.Array,
    image_BxHxWxC: jax.Array,
    prompts: Prompts,
    completions: Completions,
    temperature: jax.Array,
) -> jax.Array:
    policy = definition.bind(params)
    image_BxPxD = policy.encode(to_pixels(image_BxHxWxC))
    logits_BxTxV, _ = policy.score(image_BxPxD, *prompts, *completions)
    logits_BxTxV = masked_logits(logits_BxTxV, forbidden_V, temperature)
    return jnp.sum(token_logprobs(logits_BxTxV, *completions), axis=1)
