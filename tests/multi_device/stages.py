"""Every stage's step at its smallest, as the tests of meshes run it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.mesh_axes import FrozenName
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.sharding import made, settled
from mmrlhf_jax.training import contrastive, dpo, reward, supervised
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training.config import (
    DPOConfig,
    JudgementAugmentConfig,
    PPOConfig,
    PretrainConfig,
    RewardStageConfig,
    SFTConfig,
)
from mmrlhf_jax.training.guard import begin, guarded
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.lessons import Lessons
from mmrlhf_jax.training.objectives import Comparisons
from mmrlhf_jax.training.pictures import Pictures
from mmrlhf_jax.types import Completions, Prompts
from tests.tiny_networks import LENGTH, NETWORKS, make_frozen

ROWS = 8
KEY = jax.random.key(0)
# A large epsilon: Adam's usual one makes a whole step of a gradient that is nothing but rounding.
OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup_steps=1, weight_decay=0.0, eps=1e-2)
random = np.random.default_rng(0)
IDS = jnp.asarray(random.integers(3, 20, (ROWS, 2, LENGTH)), jnp.int32)
IMAGES = jnp.asarray(random.integers(0, 256, (ROWS, 64, 64, 3)), jnp.uint8)
MAY = jnp.ones(ROWS, bool)
PICTURES = Pictures(
    IMAGES,
    IDS,
    jnp.full(ROWS, 2, jnp.int32),
    jnp.arange(2 * ROWS, dtype=jnp.int32).reshape(ROWS, 2),
    MAY,
    MAY,
)


class Stage(NamedTuple):
    """What a stage compiles, and what it is given.

    Attributes:
      start: given → the first state.
      step: (state, *inputs) → (state, metrics).
      inputs: makes them, on the mesh.
    """

    start: Callable[..., Any]
    given: tuple[Any, ...]
    step: Callable[..., Any]
    inputs: Callable[[], tuple[Any, ...]]


class Outcome(NamedTuple):
    """After two steps on a mesh."""

    state: Any
    metrics: dict[str, float]
    text: str  # of the compiled program


def run(stage: Stage, mesh: str) -> Outcome:
    """Two steps, so that the optimizer's moments count."""
    with on_mesh(mesh, batch=ROWS):
        state, inputs = made(stage.start, *stage.given), stage.inputs()
        step = jax.jit(stage.step).lower(state, *inputs).compile()
        for _ in range(2):
            state, metrics = step(state, *inputs)
        means = {name: float(total) / float(weight) for name, (total, weight) in metrics.items()}
        return Outcome(state.state, means, step.as_text())


@functools.cache
def stages() -> dict[str, Stage]:
    """All of them by name."""
    return {
        "pretrain": pretrain(),
        "sft": sft(),
        "reward": reward_model(),
        "dpo": preferences(),
        "ppo": reinforce("sharded"),
        "ppo, copied judges": reinforce("replicated"),
    }


def pretrain() -> Stage:
    config = PretrainConfig(batch=ROWS, steps=10, optimizer=OPTIMIZER)
    networks = contrastive.Networks(NETWORKS.clip, NETWORKS.language_model)
    near = contrastive.Near(IDS[:, :1], PICTURES.name_NxA[:, 1:])
    return Stage(
        lambda key: begin(contrastive.init_state(networks, config, key), contrastive.LOSSES),
        (KEY,),
        guarded(
            lambda state, pictures, near: contrastive.learn(networks, config, state, pictures, near, KEY),
            contrastive.LOSSES,
        ),
        lambda: (PICTURES, near),
    )


def sft() -> Stage:
    config = SFTConfig(batch=ROWS, steps=10, optimizer=OPTIMIZER)
    frozen = make_frozen()
    return Stage(
        lambda vision, decoder: begin(
            supervised.init_state(NETWORKS.policy, vision, decoder, config, KEY), supervised.LOSSES
        ),
        (frozen.clip["vision"], frozen.language_model),
        guarded(functools.partial(supervised.update_step, NETWORKS.policy, config), supervised.LOSSES),
        lambda: (PICTURES, KEY),
    )


def reward_model() -> Stage:
    config = RewardStageConfig(
        batch=ROWS, steps=10, optimizer=OPTIMIZER, transfer="full", augment=JudgementAugmentConfig(shift=0.0)
    )
    model, objective = NETWORKS.reward_model, Comparisons()
    judgements = Judgements(IMAGES, jnp.arange(ROWS, dtype=jnp.int32)[:, None], IDS, {})
    lessons = Lessons(judgements, None, MAY, MAY, jnp.zeros(1, bool), jnp.ones((1, ROWS)))
    params = make_frozen().reward_model
    towers, kept = reward.split_towers("clip", params["clip"], "full", KEY, rank=2)
    return Stage(
        lambda towers: begin(reward.init_state(model, objective, towers, config, KEY), reward.LOSSES),
        (towers,),
        guarded(functools.partial(reward.update_step, model, objective, config), reward.LOSSES),
        lambda: (settled(kept), lessons, KEY),
    )


def preferences() -> Stage:
    config = DPOConfig(batch=ROWS, steps=10, optimizer=OPTIMIZER)
    ids_2xPxT = jnp.moveaxis(IDS, 1, 0)
    answers = dpo.Answers(Completions(ids_2xPxT, ids_2xPxT > 0), jnp.full((2, ROWS), -9.0))
    seen = jnp.asarray(random.normal(size=(ROWS, 4, 16)), jnp.float32)
    prompts = Prompts(jnp.ones((ROWS, 1), jnp.int32), jnp.ones((ROWS, 1), bool))
    pairs = dpo.Pairs(seen, jnp.arange(ROWS, dtype=jnp.int32), prompts, answers)
    reference = make_frozen().reference
    forbidden_V = jnp.asarray(NETWORKS.forbidden)
    return Stage(
        lambda reference: begin(dpo.init_state(reference, config), dpo.LOSSES),
        (reference,),
        guarded(functools.partial(dpo.update_step, NETWORKS.policy, config), dpo.LOSSES),
        lambda: (settled(reference), forbidden_V, pairs, KEY),
    )


def reinforce(how: FrozenName) -> Stage:
    config = PPOConfig(batch=ROWS, epochs=2, minibatches=1, optimizer=OPTIMIZER)
    frozen = make_frozen()
    losses = ppo.watched(config)
    return Stage(
        lambda reference: ppo.start_members(config, reference, KEY)[0],
        (frozen.reference,),
        guarded(functools.partial(ppo.update_step, NETWORKS, config), losses),
        lambda: (frozen.placed(how), ppo.Hyper.of(config), KEY),
    )
