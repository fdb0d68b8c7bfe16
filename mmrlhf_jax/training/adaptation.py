"""What of the policy is trained, and how it makes a whole policy with what is not.

The trained parameters are a dict of parts, and the reference policy holds all the rest, so that the state of
training has nothing twice:

    full   "decoder"
    lora   "adapters", low-rank ones of the decoder's linear layers (`language.lora`)
    head   "decoder": {"head"}, the output weights, set apart from the embeddings where those serve as such

and "value_head" with each of them where values are learned. A separate critic is a part of its own, "critic",
made of the same parts as the policy but for the output weights, which it does not use.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.names import moved
from mmrlhf_jax.hub.peft import save_adapters
from mmrlhf_jax.language.lora import lora_apply, lora_init, lora_merge
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.vision_language import Scored, VisionLanguagePolicy
from mmrlhf_jax.training.config.adapt import AdaptName, CriticName, LoraConfig
from mmrlhf_jax.types import Completions, Prompts

ADAPTERS, CRITIC = "adapters", "critic"


def init_trained(
    reference: Params,
    adapt: AdaptName,
    lora: LoraConfig,
    key: jax.Array,
    *,
    critic: CriticName | None,
) -> Params:
    """The parameters that are trained, at first: they make the policy that `reference` is.

    Args:
      critic: where values are learned; None: nowhere.

    Raises:
      UserError: `lora.layers` fits no linear layer.
    """
    key_policy, key_critic = jax.random.split(key)
    value_head = {"value_head": reference["value_head"]}

    def body(key: jax.Array) -> Params:
        if adapt == "full":
            return {"decoder": reference["decoder"]}
        if adapt == "lora":
            decoder = {"decoder": reference["decoder"]}
            return {ADAPTERS: lora_init(decoder, key, [rf"decoder\.({lora.layers})"], lora.rank)}
        return {}

    trained = body(key_policy)
    if adapt == "head":
        trained = {"decoder": {"head": {"kernel": _output_weights(reference["decoder"])}}}
    if critic == "trunk":
        trained |= value_head
    elif critic == "separate":
        zeros = jax.tree.map(jnp.zeros_like, value_head)
        trained[CRITIC] = body(key_critic) | zeros
    return jax.tree.map(jnp.copy, trained)  # a donated state must not take the reference with it


def bind(
    policy: Definition[VisionLanguagePolicy],
    reference: Params,
    trained: Params,
    scale: jax.Array | float,
) -> VisionLanguagePolicy:
    """The policy with its trained parameters; call it inside jit, where it costs nothing.

    Args:
      policy: as `reference` has it.
      scale: of the adapters, where there are any.
    """
    params = overlaid(reference, _own(trained))
    if _has_own_head(reference, params):
        policy = define_policy(untied(policy.bind(reference).config))
    module = policy.bind(params)
    return lora_apply(module, trained[ADAPTERS], scale) if ADAPTERS in trained else module


def score(
    policy: Definition[VisionLanguagePolicy],
    reference: Params,
    trained: Params,
    image_BxPxD: jax.Array,
    prompts: Prompts,
    completions: Completions,
    scale: jax.Array | float,
) -> Scored:
    """What the policy says of completions, and the critic, wherever it is."""
    read = (image_BxPxD, *prompts, *completions)
    scored = bind(policy, reference, trained, scale).score(*read)
    if CRITIC not in trained:
        return scored
    return scored._replace(values_BxT=bind(policy, reference, trained[CRITIC], scale).values(*read))


def merged(captioner: Captioner, trained: Params, scale: float) -> Captioner:
    """The trained policy as a captioner of its own; `captioner` is the reference.

    Adapters are in its kernels, and output weights that were trained apart from the embeddings in its
    architecture.
    """
    params = overlaid(captioner.params, _own(trained))
    if ADAPTERS in trained:
        params = lora_merge(params, trained[ADAPTERS], scale)
    if not _has_own_head(captioner.params, params):
        return dataclasses.replace(captioner, params=params)
    architecture = untied(captioner.architecture)
    return Captioner(architecture, define_policy(architecture), params, captioner.tokenizer)


def save_trained(captioner: Captioner, trained: Params, folder: Path, *, scale: float) -> None:
    """Writes the trained policy, which `Captioner.load` reads; below it adapters and a critic of its own.

    adapters/ is in the layout of PEFT, with the names that the layers have in transformers' LLaVA. critic/
    has the form of a captioner, of which the value head and the layers below it are of use.
    """
    merged(captioner, trained, scale).save(folder)
    if ADAPTERS in trained:
        table = moved(llama.table(captioner.architecture.decoder), "decoder", _name_in_llava)
        save_adapters(folder / "adapters", trained[ADAPTERS], table, scale=scale)
    if CRITIC in trained:
        merged(captioner, trained[CRITIC], scale).save(folder / "critic")


def overlaid(base: Params, changes: Params) -> Params:
    """`base` with what `changes` has in its place, sharing all other arrays."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{name: overlaid(base.get(name), part) for name, part in changes.items()}}


def untied(config: PolicyConfig) -> PolicyConfig:
    """The same architecture with output weights of its own."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=False))


def _own(trained: Params) -> Params:
    return {name: part for name, part in trained.items() if name not in (ADAPTERS, CRITIC)}


def _output_weights(decoder: Params) -> jax.Array:
    return decoder["head"]["kernel"] if "head" in decoder else decoder["embedding"]["embedding"].T


def _has_own_head(reference: Params, params: Params) -> bool:
    """Whether the policy has output weights where the reference has none but its embeddings."""
    return "head" in params["decoder"] and "head" not in reference["decoder"]


def _name_in_llava(name: str) -> str:
    return f"model.language_model.{name.removeprefix('model.')}"
