"""Returns, advantages, losses and whole gradient steps against rlax and Stable-Baselines3 (SB3).

The numbers are golden/rl.json's, by scripts/make_rl_goldens.py.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.spaces import Box, Discrete
from mmrlhf_jax.masked import token_entropy
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.rl.advantages import returns_to_go
from mmrlhf_jax.rl.losses import policy_gradient_loss, ppo_clip_loss
from mmrlhf_jax.rl.step_rollout import step_advantages
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training.config.environment import ActorCriticTraining, a2c_training
from mmrlhf_jax.training.environment import Hyper, learn, make_direction
from mmrlhf_jax.types import Steps, TrainState

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("rl.json").read_text(encoding="utf-8"))
RLAX = {name: np.asarray(value) for name, value in GOLDEN["rlax"].items()}
GAMMA, LAM = GOLDEN["rates"]["gamma"], GOLDEN["rates"]["gae_lambda"]


def single(name: str) -> jax.Array:
    return jnp.asarray(RLAX[name].astype(np.float32))


def test_advantages_and_lambda_returns_are_those_of_rlax():
    column = lambda values: jnp.asarray(np.asarray(values, np.float32))[:, None]  # noqa: E731
    nothing, ended = column(np.zeros(12)), jnp.asarray(RLAX["ended"])[:, None]
    steps = Steps(
        nothing,
        nothing,
        nothing,
        column(RLAX["values"][:-1]),
        column(RLAX["rewards"]),
        ended,
        jnp.zeros_like(ended),
        nothing,
    )
    assert 0 < RLAX["ended"].sum() < 12
    advantages_TxB, returns_TxB = step_advantages(steps, single("values")[-1:], gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(advantages_TxB[:, 0], RLAX["gae"], atol=1e-5)
    np.testing.assert_allclose(returns_TxB[:, 0], RLAX["lambda_returns"], atol=1e-5)


def test_returns_to_go_are_those_of_rlax():
    got_BxT = returns_to_go(single("rewards")[None], jnp.ones((1, 12), bool), gamma=GAMMA)
    np.testing.assert_allclose(got_BxT[0], RLAX["returns_to_go"], atol=1e-5)


def test_losses_and_entropy_are_those_of_rlax():
    loss_T, _ = ppo_clip_loss(jnp.log(single("ratios")), jnp.zeros(12), single("advantages"), 0.2)
    assert float(jnp.mean(loss_T)) == pytest.approx(float(RLAX["clipped_surrogate"]), abs=1e-6)
    logits_TxA = single("logits")
    logprobs_T = jax.nn.log_softmax(logits_TxA)[np.arange(12), RLAX["actions"]]
    plain = jnp.mean(policy_gradient_loss(logprobs_T, single("advantages")))
    assert float(plain) == pytest.approx(float(RLAX["policy_gradient"]), abs=1e-6)
    entropy_T = token_entropy(logits_TxA[None], jnp.ones((1, 12), bool))[0]
    assert float(jnp.mean(entropy_T)) == pytest.approx(float(RLAX["entropy"]), abs=1e-6)


def from_torch(weights: dict[str, Any]) -> dict[str, Any]:
    """SB3's MlpPolicy as ours: torch keeps kernels transposed."""

    def dense(name: str) -> dict[str, jax.Array]:
        kernel, bias = (np.asarray(weights[f"{name}.{part}"], np.float32) for part in ("weight", "bias"))
        return {"kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}

    def network(name: str) -> dict[str, Any]:
        return {"layers": {i: dense(f"mlp_extractor.{name}.{2 * i}") for i in range(2)}}

    return {
        "act": dense("action_net"),
        "actor": network("policy_net"),
        "critic": network("value_net"),
        "value": dense("value_net"),
    }


def as_steps(rollout: dict[str, Any]) -> tuple[Steps, jax.Array]:
    """SB3's buffer: an episode ended at t where one starts at t + 1."""
    array = {name: np.asarray(values, np.float32) for name, values in rollout.items()}
    ended_TxB = np.asarray(rollout["starts"], bool)[1:]
    steps = Steps(
        array["observations"],
        np.asarray(rollout["actions"], np.int32)[..., 0],
        array["log_probs"],
        array["values"],
        array["rewards"],
        ended_TxB,
        np.zeros_like(ended_TxB),
        np.zeros_like(array["values"]),
    )
    return jax.tree.map(jnp.asarray, steps), jnp.asarray(array["last_values"])


@pytest.mark.medium
@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_gradient_step_is_that_of_sb3(algorithm):
    golden = GOLDEN[algorithm]
    steps, last_values_B = as_steps(golden["rollout"])
    count, copies = steps.rewards_TxB.shape
    rates = {"n_envs": copies, "n_steps": count, **GOLDEN["rates"], **GOLDEN[f"{algorithm}_rates"]}
    if algorithm == "ppo":
        training = ActorCriticTraining(batch_size=count * copies, n_epochs=1, **rates)
    else:
        training = a2c_training(**rates)
    architecture = ActorCriticConfig(actor=(6, 5), critic=(6, 5))
    policy = define_actor_critic(Box((4,), -10.0, 10.0), Discrete(3), architecture)
    params = from_torch(golden["before"])
    assert jax.tree.structure(params) == jax.tree.structure(policy.init(jax.random.key(0)))
    start = TrainState(jnp.zeros((), jnp.int32), params, make_direction(training).init(params))

    advantages_TxB, returns_TxB = step_advantages(steps, last_values_B, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(advantages_TxB, golden["rollout"]["advantages"], atol=1e-5)
    np.testing.assert_allclose(returns_TxB, golden["rollout"]["returns"], atol=1e-5)

    hyper = Hyper.of_training(training)
    learner, metrics = learn(policy, training, start, steps, last_values_B, hyper, jax.random.key(0))
    logged = finalize(metrics)
    if algorithm == "ppo":  # both bounds are felt
        assert 0.1 < golden["logged"]["train/clip_fraction"] < 0.9
    for name in set(golden["logged"]) & set(logged):
        assert logged[name] == pytest.approx(golden["logged"][name], abs=2e-5), name
    assert len(set(golden["logged"]) & set(logged)) >= 5
    assert logged["train/grad_norm"] > GOLDEN[f"{algorithm}_rates"]["max_grad_norm"]  # the norm is clipped
    after = from_torch(golden["after"])
    for path, leaf in jax.tree.leaves_with_path(learner.params):
        want = dict(jax.tree.leaves_with_path(after))[path]
        np.testing.assert_allclose(leaf, want, atol=2e-5, err_msg=jax.tree_util.keystr(path))
