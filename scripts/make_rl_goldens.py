"""Makes tests/rl/golden/rl.json: what rlax and Stable-Baselines3 (SB3) say about random rollouts.

    pip install torch==2.13.0 && pip install rlax==0.1.9 stable-baselines3==2.9.2
    python scripts/make_rl_goldens.py

Returns, advantages and losses come from rlax; one gradient step of PPO and one of A2C, with every number that
they log, from SB3. Nothing of this package is imported. Takes ten seconds and prints what SB3 logged.
"""

import json
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import rlax
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

OUTPUT = Path(__file__).parents[1] / "tests" / "rl" / "golden" / "rl.json"
RANDOM = np.random.default_rng(0)
STEPS, ENVS, WIDTH, ACTIONS = 16, 2, 4, 3
RATES = {"gamma": 0.9, "gae_lambda": 0.8, "ent_coef": 0.02, "vf_coef": 0.5, "learning_rate": 0.01}
PPO_RATES = {"clip_range": 0.2, "clip_range_vf": 0.1, "max_grad_norm": 0.3}
A2C_RATES = {"max_grad_norm": 0.3}


def plain(values: Any) -> Any:
    """Nested lists of Python's numbers."""
    return np.asarray(values).tolist()


def from_rlax() -> dict[str, Any]:
    """One row of 12 steps whose discount is 0 where an episode terminated."""
    rewards, values_last = RANDOM.normal(size=12), RANDOM.normal(size=13)
    ended = RANDOM.random(12) < 0.25
    discounts = np.where(ended, 0.0, RATES["gamma"])
    arrays = [jnp.asarray(x, jnp.float32) for x in (rewards, discounts, values_last)]
    reward_T, discount_T, value_S = arrays
    logits, actions = RANDOM.normal(size=(12, ACTIONS)), RANDOM.integers(0, ACTIONS, 12)
    advantages, ratios = RANDOM.normal(size=12), RANDOM.uniform(0.5, 1.6, 12)
    logits_TxA, advantages_T = jnp.asarray(logits, jnp.float32), jnp.asarray(advantages, jnp.float32)
    lam = RATES["gae_lambda"]
    return {
        "rewards": plain(rewards),
        "ended": plain(ended),
        "values": plain(values_last),
        "logits": plain(logits),
        "actions": plain(actions),
        "advantages": plain(advantages),
        "ratios": plain(ratios),
        "gae": plain(rlax.truncated_generalized_advantage_estimation(reward_T, discount_T, lam, value_S)),
        "lambda_returns": plain(rlax.lambda_returns(reward_T, discount_T, value_S[1:], lam)),
        "returns_to_go": plain(
            rlax.discounted_returns(reward_T, jnp.full(12, RATES["gamma"]), jnp.zeros(12))
        ),
        "clipped_surrogate": float(
            rlax.clipped_surrogate_pg_loss(jnp.asarray(ratios, jnp.float32), advantages_T, 0.2)
        ),
        "policy_gradient": float(
            rlax.policy_gradient_loss(logits_TxA, jnp.asarray(actions), advantages_T, jnp.ones(12))
        ),
        "entropy": float(-rlax.entropy_loss(logits_TxA, jnp.ones(12))),
    }


class Space(gymnasium.Env):
    """Nothing but spaces: the rollout is written into the buffer by hand."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (WIDTH,))
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(WIDTH, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(WIDTH, np.float32), 0.0, False, False, {}


def make(algorithm: type[BaseAlgorithm]) -> Any:
    """A model of SB3 with two small networks, whose rollout is one minibatch."""
    shared = {"n_steps": STEPS, "policy_kwargs": {"net_arch": [6, 5]}, "seed": 0, "device": "cpu", **RATES}
    copies = make_vec_env(Space, n_envs=ENVS)
    if algorithm is PPO:
        return PPO("MlpPolicy", copies, batch_size=STEPS * ENVS, n_epochs=1, **PPO_RATES, **shared)
    return A2C("MlpPolicy", copies, **A2C_RATES, **shared)


def from_sb3(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """The numbers of one gradient step on a rollout whose log-probs and values are not quite the policy's."""
    model = make(algorithm)
    model.set_logger(configure(None, []))
    with torch.no_grad():  # else the heads say next to nothing
        for parameter in model.policy.parameters():
            parameter.add_(
                torch.as_tensor(RANDOM.normal(scale=0.3, size=parameter.shape), dtype=torch.float32)
            )
    before = {name: plain(value) for name, value in model.policy.state_dict().items()}
    buffer, rollout = model.rollout_buffer, {}
    buffer.reset()
    starts = RANDOM.random((STEPS + 1, ENVS)) < 0.2
    for t in range(STEPS):
        observation = RANDOM.normal(size=(ENVS, WIDTH)).astype(np.float32)
        action = RANDOM.integers(0, ACTIONS, (ENVS, 1))
        with torch.no_grad():
            values, logprobs, _ = model.policy.evaluate_actions(
                torch.as_tensor(observation), torch.as_tensor(action[:, 0])
            )
        noise = 0.3 if algorithm is PPO else 0.0
        values = values + noise * torch.as_tensor(RANDOM.normal(size=(ENVS, 1)), dtype=torch.float32)
        logprobs = logprobs + noise * torch.as_tensor(RANDOM.normal(size=ENVS), dtype=torch.float32)
        buffer.add(observation, action, RANDOM.normal(size=ENVS), starts[t], values, logprobs)
    last = torch.as_tensor(RANDOM.normal(size=(ENVS, 1)), dtype=torch.float32)
    buffer.compute_returns_and_advantage(last_values=last, dones=starts[STEPS].astype(np.float32))
    for name in ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns"):
        rollout[name] = plain(getattr(buffer, name))
    rollout |= {"starts": plain(starts), "last_values": plain(last[:, 0])}
    model.train()
    logged = {name: float(value) for name, value in model.logger.name_to_value.items()}
    after = {name: plain(value) for name, value in model.policy.state_dict().items()}
    return {"rollout": rollout, "before": before, "after": after, "logged": logged}


def main() -> None:
    golden = {
        "rates": RATES,
        "ppo_rates": PPO_RATES,
        "a2c_rates": A2C_RATES,
        "rlax": from_rlax(),
        "ppo": from_sb3(PPO),
        "a2c": from_sb3(A2C),
    }
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(golden) + "\n", encoding="utf-8")
    print({name: golden[name]["logged"] for name in ("ppo", "a2c")})


if __name__ == "__main__":
    main()
