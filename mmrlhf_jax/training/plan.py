"""A step of PPO on many devices, planned on none: compiled from shapes alone, then read.

shapes of all arrays → the real step, lowered and compiled for the mesh → bytes, FLOPs, talk → seconds
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, RewardConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, PAD_ID
from mmrlhf_jax.hub import llava
from mmrlhf_jax.mesh_axes import parse_mesh, row_shares
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.reward.composite import Rules, fit_normaliser
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.wording import WordTable
from mmrlhf_jax.runtime.hlo import Collective, read_work
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.sharding import shapes
from mmrlhf_jax.training.adaptation import ADAPTERS, overlaid
from mmrlhf_jax.training.config import PPOConfig, RewardWeights
from mmrlhf_jax.training.config.plan import PlanConfig
from mmrlhf_jax.training.members import member_rates
from mmrlhf_jax.training.networks import Frozen, Networks, encode_views, no_views
from mmrlhf_jax.training.policy import compile_update, start_members
from mmrlhf_jax.types import Prompts


class Chip(NamedTuple):
    """Peak rates by its maker's data sheet: bfloat16 FLOP/s, bytes, bytes/s, bytes/s to other chips.

    Those to other chips are one way over NVLink, which joins 8 GPUs, and of all links of a TPU together.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    links: float


CHIPS = (
    Chip("TPU v5e", 197e12, 16e9, 819e9, 200e9),
    Chip("TPU v5p", 459e12, 95e9, 2765e9, 600e9),
    Chip("H100 SXM", 989e12, 80e9, 3350e9, 450e9),
)


class Step(NamedTuple):
    """The compiled function of a step, not compiled yet, and what it is given."""

    update: Any
    arguments: dict[str, Any]
    policy: PolicyConfig


class Plan(NamedTuple):
    """What a step takes on one device.

    Attributes:
      bytes: by what it is.
      total: of the compiled program: arguments, results, temporary arrays.
      flops: of products of matrices.
      sampling_bytes: what sampling reads, policy and cache, once a token after the first.
      unknown_loops: loops whose rounds the program does not tell, taken for the one of sampling.
    """

    bytes: dict[str, int]
    total: int
    flops: int
    collectives: tuple[Collective, ...]
    sampling_bytes: int
    unknown_loops: int

    def seconds(self, chip: Chip, utilisation: float) -> float:
        """An estimate: products + what sampling reads for each token + talk, one after the other.

        flops / (utilisation x peak) + sampling bytes / memory bandwidth + bytes of collectives / links.
        """
        talk = sum(collective.bytes for collective in self.collectives)
        return (
            self.flops / (utilisation * chip.flops) + self.sampling_bytes / chip.bandwidth + talk / chip.links
        )


def make_plan(config: PlanConfig) -> Plan:
    """Compiles the step for the mesh and reads what it does. Wants as many devices as the mesh has."""
    with on_mesh(config.mesh, batch=config.batch):
        step = make_step(config)
        compiled = step.update.lower(*step.arguments.values()).compile()
    memory = compiled.memory_analysis()
    work = read_work(compiled.as_text(), unknown_trips=config.max_length - 1)
    state, frozen = step.arguments["state"], step.arguments["frozen"]
    learner = state.state
    parts = {
        "trained parameters": bytes_held(learner.params),
        "optimizer": bytes_held(learner.opt_state),
        "reference": bytes_held(frozen.reference),
        "reward model": bytes_held(frozen.reward_model),
        "pictures": bytes_held(frozen.views),
        "key-value cache": cache_bytes(config, step.policy),  # one of the temporary arrays
        "results": memory.output_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
    }
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    policy = overlaid(frozen.reference["decoder"], learner.params.get("decoder", {}))
    a_token = bytes_read((policy, learner.params.get(ADAPTERS, {}))) + parts["key-value cache"]
    sampling = (config.max_length - 1) * a_token
    return Plan(parts, total, work.flops, work.collectives, sampling, work.unknown_loops)


def make_step(config: PlanConfig) -> Step:
    """The step of `training.policy`, with arguments that are shapes and say where they lie on the mesh."""
    policy = policy_of(config)
    networks = Networks(
        define_policy(policy),
        None,
        None,
        define_reward_model(RewardConfig(clip=None, policy=policy)),
        policy.max_length,
        tuple(token in (PAD_ID, BEGIN_ID) for token in range(policy.decoder.vocab_size)),
    )
    ppo = PPOConfig(
        batch=config.batch,
        epochs=config.epochs,
        minibatches=config.minibatches,
        microbatches=config.microbatches,
        adapt=config.adapt,
        critic=config.critic,
        weights=RewardWeights(fluency=0.0, image_accuracy=0.0),
    )
    dtype = jnp.dtype(config.frozen_dtype)
    networks_of = (networks.policy, networks.reward_model)
    reference, reward = (shapes(of_dtype(one.abstract(), dtype)) for one in networks_of)
    vocabulary = policy.decoder.vocab_size
    words = WordTable(
        jnp.zeros((1, vocabulary), jnp.int16), jnp.zeros((1, vocabulary), jnp.int8), jnp.zeros(1, jnp.int8)
    )
    frozen = Frozen(
        reference,
        None,
        None,
        reward,
        no_views(),
        fit_normaliser(dict.fromkeys(networks.terms(), jnp.zeros(1))),
        Rules(words, jnp.asarray(1.0), jnp.asarray(float(policy.max_length))),
    )
    size = policy.vision.image_size
    images = shape_of((config.batch, size, size, 3), "uint8")
    views = jax.eval_shape(lambda frozen, images: encode_views(networks, frozen, images), frozen, images)
    said: Any = Prompts(
        *(shape_of((config.batch, config.prompt_length), dtype) for dtype in ("int32", "bool"))
    )
    frozen = frozen._replace(views=everywhere(views._replace(prompts=said)))
    key = jax.random.key(0)
    trained = of_dtype(networks.policy.abstract(), jnp.dtype("float32"))
    state, keys = jax.eval_shape(lambda reference: start_members(ppo, reference, key), trained)
    arguments = {
        "state": shapes(state),
        "frozen": frozen,
        "hyper": member_rates(ppo)[0],
        "key": everywhere(keys),
    }
    return Step(compile_update(networks, ppo), arguments, policy)


def policy_of(config: PlanConfig) -> PolicyConfig:
    """The architecture of the policy that the plan names."""
    if config.model == "tiny":
        tower = TransformerConfig(width=32, layers=1, heads=2, mlp_width=64)
        decoder = DecoderConfig(vocab_size=512, width=64, layers=2, heads=4, kv_heads=4, mlp_width=128)
        policy = PolicyConfig(VisionConfig(32, 8, tower), decoder)
    else:
        text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
        policy = llava.config_from_hf({"model_type": "llava", "text_config": text})
        large: dict[str, Any] = {
            "llava-1.5-7b": {},
            "llava-1.5-13b": {"width": 5120, "layers": 40, "heads": 40, "kv_heads": 40, "mlp_width": 13824},
            "llava-1b": {"width": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "mlp_width": 8192},
        }[config.model]
        policy = dataclasses.replace(policy, decoder=dataclasses.replace(policy.decoder, **large))
    return dataclasses.replace(
        policy,
        decoder=dataclasses.replace(policy.decoder, remat=config.remat),
        max_length=config.max_length,
        prompt_length=config.prompt_length,
        image_token_id=None,  # the picture's tokens stand before the prompt
    )


def shape_of(shape: tuple[int, ...], dtype: str) -> Any:
    """Stands for an array of that shape."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def of_dtype(params: Params, dtype: Any) -> Params:
    """The same shapes in another floating type."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)


def everywhere(tree: Any) -> Any:
    """The same shapes, whole on every device of the mesh."""
    mesh = jax.sharding.get_mesh()
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)


def bytes_held(tree: Any) -> int:
    """Bytes that one device has of shapes that say where they lie."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if leaf.sharding is not None
    )


def bytes_read(tree: Any) -> int:
    """Bytes of the same arrays as a device samples with them, no longer cut by fsdp (`sharding.gathered`)."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        axes = jax.tree.leaves(tuple(leaf.sharding.spec))
        total += bytes_held(leaf) * (leaf.sharding.mesh.shape["fsdp"] if "fsdp" in axes else 1)
    return total


def cache_bytes(config: PlanConfig, policy: PolicyConfig) -> int:
    """Keys and values of all tokens but the last, for a device's rows and heads, in the embeddings' type."""
    decoder, sizes = policy.decoder, parse_mesh(config.mesh)
    cut = decoder.kv_heads % sizes["tensor"] == 0
    heads = decoder.kv_heads // sizes["tensor"] if cut else decoder.kv_heads
    tokens = policy.picture_tokens + config.prompt_length + config.max_length - 1
    rows = config.batch // row_shares(config.mesh)
    dtype = jnp.dtype("float32" if config.adapt == "full" else config.frozen_dtype)
    return 2 * decoder.layers * rows * heads * tokens * decoder.head_width * dtype.itemsize
