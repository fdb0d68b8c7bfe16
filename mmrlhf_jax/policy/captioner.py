"""A trained policy as its users meet it: pictures in, captions out."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.sampling import begin_prompts, forbidden_tokens, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy


def define_policy(config: PolicyConfig) -> Definition[VisionLanguagePolicy]:
    """The policy of the given architecture, without parameters."""
    return define(lambda rngs: VisionLanguagePolicy(config, rngs=rngs))


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A policy, its parameters and its tokenizer.

    Attributes:
      max_length: tokens of a caption at most, end token included.
    """

    architecture: PolicyConfig
    policy: Definition[VisionLanguagePolicy]
    params: Params
    tokenizer: CaptionTokenizer
    max_length: int = 16

    @classmethod
    def load(cls, folder: str | Path) -> "Captioner":
        """Reads what `save` wrote. Raises UserError for a missing, damaged or foreign folder."""
        architecture = load_architecture(folder, PolicyConfig)
        policy = define_policy(architecture)
        params = load_params(folder, policy.abstract())
        return cls(architecture, policy, params, CaptionTokenizer.load(folder))

    def save(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer's files."""
        self.tokenizer.save(folder)
        save_model(folder, self.architecture, self.params)

    @property
    def forbidden_V(self) -> jax.Array:
        """True for the tokens that are never sampled."""
        return forbidden_tokens(self.architecture.decoder.vocab_size, self.tokenizer.vocab_size)

    def caption(
        self, image_NxHxWxC: np.ndarray, *, temperature: float = 0.0, seed: int = 0, batch: int = 256
    ) -> list[str]:
        """One caption for each picture (uint8, of the architecture's size); temperature 0 is greedy."""

        @jax.jit
        def write(params: Params, image_BxHxWxC: jax.Array, key: jax.Array) -> jax.Array:
            policy = self.policy.bind(params)
            return sample_completions(
                policy,
                policy.encode(to_pixels(image_BxHxWxC)),
                begin_prompts(image_BxHxWxC.shape[0]),
                key,
                length=self.max_length,
                forbidden_V=self.forbidden_V,
                temperature=temperature,
            ).ids_BxT

        count = len(image_NxHxWxC)
        batch = min(batch, count)
        # The last chunk is filled up with copies, so that every chunk has one shape and compiles once.
        rows = np.minimum(np.arange(-(-count // batch) * batch), count - 1).reshape(-1, batch)
        key = jax.random.key(seed)
        ids = [
            write(self.params, jnp.asarray(image_NxHxWxC[chunk]), jax.random.fold_in(key, i))
            for i, chunk in enumerate(rows)
        ]
        return self.tokenizer.decode_batch(np.concatenate([np.asarray(part) for part in ids])[:count])
