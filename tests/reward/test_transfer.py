"""Transfer: what is frozen stays, adapters start as nothing, and merging changes no reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.transfer import ADAPTERS, bind, merge, split_towers
from tests.parameters import draw
from tests.reward.sizes import CLIP, IDS, MASK, PIXELS

pytestmark = pytest.mark.medium

MODEL = define_reward_model(RewardConfig(CLIP, "concat", 8))
PARAMS = draw(MODEL.abstract())
OWN = {name: part for name, part in PARAMS.items() if name != "clip"}
SCALE = 2.0


@jax.jit
def reward(trained, kept):
    model = bind(MODEL, {**kept, **trained}, scale=SCALE)
    return model.judge(model.encode(PIXELS), IDS, MASK).reward_B


slopes = jax.jit(jax.grad(lambda trained, kept: jnp.sum(reward(trained, kept) ** 2)))


def split(transfer: str):
    """(all that is trained, all that is not)."""
    trained, kept = split_towers("clip", PARAMS["clip"], transfer, jax.random.key(0), rank=2)
    return {**OWN, **trained}, kept


def test_what_each_way_trains():
    for transfer, part in (("full", {"clip"}), ("frozen", set()), ("lora", {ADAPTERS})):
        trained, kept = split(transfer)
        assert set(trained) == set(OWN) | part and set(kept) == {"clip"} - part
    adapters = split("lora")[0][ADAPTERS]
    assert set(adapters) == {
        f"clip.{tower}.transformer.blocks.0.{layer}"
        for tower in ("vision", "text")
        for layer in ("qkv", "out", "up", "down")
    }


def test_fresh_adapters_change_nothing():
    base = reward(*split("full"))
    np.testing.assert_allclose(reward(*split("frozen")), base, atol=1e-6)
    np.testing.assert_allclose(reward(*split("lora")), base, atol=1e-6)


def test_gradients_reach_adapters_and_never_what_is_frozen():
    trained, kept = split("lora")
    moved = {name: adapter._replace(b_RxO=adapter.b_RxO + 0.1) for name, adapter in trained[ADAPTERS].items()}
    gradients = jax.jit(jax.grad(lambda trained: jnp.sum(reward(trained, kept) ** 2)))(
        {**trained, ADAPTERS: moved}
    )
    assert set(gradients) == set(trained)
    for name, adapter in gradients[ADAPTERS].items():
        assert np.any(adapter.a_IxR) and np.any(adapter.b_RxO), name
    frozen, kept = split("frozen")
    gradients = slopes(frozen, kept)
    assert "clip" not in gradients and np.any(gradients["head"]["kernel"])


def test_merged_adapters_give_the_same_rewards_as_a_plain_model():
    trained, kept = split("lora")
    generator = np.random.default_rng(1)
    trained[ADAPTERS] = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * generator.normal(size=leaf.shape), jnp.float32),
        trained[ADAPTERS],
    )
    merged = merge({**kept, **trained}, scale=SCALE)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    adapted = reward(trained, kept)
    np.testing.assert_allclose(reward(merged, {}), adapted, rtol=1e-4, atol=1e-5)
    assert np.abs(adapted - reward(PARAMS, {})).max() > 1e-2
    np.testing.assert_array_equal(
        merged["clip"]["vision"]["patch"]["kernel"], PARAMS["clip"]["vision"]["patch"]["kernel"]
    )
