"""Completions of up to three tokens whose best policy is known: pi_ref(y) exp(r(y) / beta) / Z.

The policy is a table with a row of logits, and a value, for each prefix; everything else is `rl`.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrlhf_jax.masked import token_entropy, token_logprobs, whiten
from mmrlhf_jax.rl.advantages import estimate_advantages
from mmrlhf_jax.rl.algorithm import ALGORITHMS, Algorithm
from mmrlhf_jax.rl.generate import generate, masked_logits
from mmrlhf_jax.rl.kl import kl_estimate
from mmrlhf_jax.rl.objective import Fresh, LossRates, loss_weight, objective
from mmrlhf_jax.rl.rewards import token_rewards
from mmrlhf_jax.rl.update import accumulate, run_epochs
from mmrlhf_jax.types import Completions, Prompts, Rollout

PAD, END, VOCABULARY, LENGTH = 0, 1, 4, 3
FORBIDDEN = jnp.arange(VOCABULARY) == PAD
BETA, BATCH, STEPS = 0.5, 512, 400
# Prefixes are numbered from the empty one; prefix + token has the number VOCABULARY x prefix + token + 1.
PREFIXES = (VOCABULARY**LENGTH - 1) // (VOCABULARY - 1)
WHOLE = (VOCABULARY ** (LENGTH + 1) - 1) // (VOCABULARY - 1)

RNG = np.random.default_rng(5)
REFERENCE = RNG.normal(size=(PREFIXES, VOCABULARY)).astype(np.float32)
REWARD = (0.7 * RNG.normal(size=WHOLE)).astype(np.float32)  # by the number of the whole completion


def completions() -> list[tuple[int, ...]]:
    """Every completion: it ends with END, or is cut at LENGTH."""
    words = [t for t in range(VOCABULARY) if t not in (PAD, END)]
    ended = [(*w, END) for n in range(LENGTH) for w in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=LENGTH))


def number(tokens: tuple[int, ...]) -> int:
    prefix = 0
    for token in tokens:
        prefix = VOCABULARY * prefix + token + 1
    return prefix


def chances(table: np.ndarray) -> np.ndarray:
    """The exact probability of every completion, in float64."""
    logits = np.where(np.asarray(FORBIDDEN), -np.inf, np.asarray(table, np.float64))
    rows = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([np.prod([rows[number(y[:t]), y[t]] for t in range(len(y))]) for y in completions()])


def optimum() -> np.ndarray:
    rewards = np.array([REWARD[number(y)] for y in completions()], np.float64)
    weights = chances(REFERENCE) * np.exp(rewards / BETA)
    return weights / weights.sum()


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation."""
    return float(0.5 * np.abs(one - other).sum())


def prefixes(ids_BxT: jax.Array) -> jax.Array:
    """(B, T + 1): the number of what stands before each token, and of everything."""
    found = [jnp.zeros(ids_BxT.shape[0], jnp.int32)]
    for t in range(LENGTH):
        found.append(VOCABULARY * found[-1] + ids_BxT[:, t] + 1)
    return jnp.stack(found, axis=1)


def read(params, ids_BxT: jax.Array, mask_BxT: jax.Array) -> Fresh:
    before_BxT = prefixes(ids_BxT)[:, :-1]
    logits_BxTxV = masked_logits(params["logits"][before_BxT], FORBIDDEN, 1.0)
    logprobs_BxT = token_logprobs(logits_BxTxV, ids_BxT, mask_BxT)
    return Fresh(logprobs_BxT, params["values"][before_BxT], token_entropy(logits_BxTxV, mask_BxT))


def write(params, key: jax.Array) -> Completions:
    def decode_step(ids_B, prefix_B, t):
        prefix_B = VOCABULARY * prefix_B + ids_B + 1
        return params["logits"][prefix_B], prefix_B

    start_B = jnp.zeros(BATCH, jnp.int32)
    return generate(
        lambda: (params["logits"][start_B], start_B),
        decode_step,
        key,
        length=LENGTH,
        end_id=END,
        pad_id=PAD,
        forbidden_V=FORBIDDEN,
    )


def roll(algorithm: Algorithm, params, key: jax.Array) -> Rollout:
    ids_BxT, mask_BxT = write(params, key)
    fresh = read(params, ids_BxT, mask_BxT)
    reference_BxT = read({**params, "logits": jnp.asarray(REFERENCE)}, ids_BxT, mask_BxT).logprobs_BxT
    last_B = jnp.sum(mask_BxT, axis=1)
    whole_B = jnp.take_along_axis(prefixes(ids_BxT), last_B[:, None], axis=1)[:, 0]
    kl_BxT = kl_estimate(fresh.logprobs_BxT, reference_BxT)
    rewards_BxT = token_rewards(jnp.asarray(REWARD)[whole_B], kl_BxT, mask_BxT, BETA)
    values_BxT = jnp.where(mask_BxT, fresh.values_BxT, 0.0)
    advantages_BxT, returns_BxT = estimate_advantages(
        algorithm.advantage, rewards_BxT, values_BxT, mask_BxT, gamma=1.0, lam=0.95, group=algorithm.group
    )
    if algorithm.whiten:
        advantages_BxT = whiten(advantages_BxT, mask_BxT)
    nothing = jnp.zeros((BATCH, 1), jnp.int32)
    return Rollout(
        nothing.astype(jnp.float32)[..., None],
        Prompts(nothing, nothing == 0),
        Completions(ids_BxT, mask_BxT),
        fresh.logprobs_BxT,
        reference_BxT,
        values_BxT,
        advantages_BxT,
        returns_BxT,
    )


RATES = LossRates(*(jnp.asarray(rate) for rate in (0.2, 3.0, 0.2, 0.5, 0.0, BETA)))


def differentiate(algorithm: Algorithm, params, batch: Rollout):
    weight = loss_weight(algorithm, batch.completions.mask_BxT)

    def gradient(part: Rollout):
        def loss(params):
            return objective(algorithm, read(params, *part.completions), part, RATES, weight)

        return jax.grad(loss, has_aux=True)(params)

    return accumulate(gradient, batch, microbatches=algorithm.microbatches)


def fresh_params():
    return {"logits": jnp.asarray(REFERENCE), "values": jnp.zeros(PREFIXES)}


def train(algorithm: Algorithm) -> np.ndarray:
    """The logits after STEPS iterations, with a learning rate that falls to zero."""
    schedule = optax.linear_schedule(0.05, 0.0, STEPS * algorithm.epochs * algorithm.minibatches)
    optimizer = optax.adam(schedule, b2=0.99)

    def step(carry, batch: Rollout):
        params, opt_state = carry
        gradients, metrics = differentiate(algorithm, params, batch)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def iteration(carry, number):
        key_sample, key_epochs = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        rollout = roll(algorithm, carry[0], key_sample)
        return run_epochs(
            step, carry, rollout, key_epochs, epochs=algorithm.epochs, minibatches=algorithm.minibatches
        )

    @jax.jit
    def whole(params):
        (params, _), _ = jax.lax.scan(iteration, (params, optimizer.init(params)), jnp.arange(STEPS))
        return params["logits"]

    return np.asarray(whole(fresh_params()))


def test_the_reference_is_far_from_the_optimum():
    assert len(completions()) == 15
    assert chances(REFERENCE).sum() == pytest.approx(1) and optimum().sum() == pytest.approx(1)
    assert distance(chances(REFERENCE), optimum()) > 0.2


@pytest.mark.learning
@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "rloo", "grpo", "dr_grpo"])
def test_it_reaches_the_optimum(name):
    # A KL in the loss is taken token by token, or in the other direction (k3): its optimum is another one.
    algorithm = dataclasses.replace(ALGORITHMS[name], kl="k1", kl_in="reward")
    assert distance(chances(train(algorithm)), optimum()) < 0.02


SIZES = [("ppo", {}), ("gspo", {}), ("rloo", {"dual_clip": True})]


@pytest.mark.medium
@pytest.mark.parametrize(("name", "changes"), SIZES, ids=[name for name, _ in SIZES])
def test_the_first_ratio_is_one_and_microbatches_are_one_batch(name, changes):
    algorithm = dataclasses.replace(ALGORITHMS[name], **changes)
    params = fresh_params()
    rollout = roll(algorithm, params, jax.random.key(1))
    whole, metrics = jax.jit(differentiate, static_argnums=0)(algorithm, params, rollout)
    total, weight = metrics["val/ratio"]
    assert float(total) == pytest.approx(float(weight), rel=1e-6)
    assert float(metrics["policy/approxkl_avg"][0]) < 1e-9
    # some way on, where ratio and KL are at work
    noise = np.random.default_rng(0)
    moved = jax.tree.map(lambda leaf: leaf + 0.5 * noise.normal(size=leaf.shape).astype(np.float32), params)
    several = dataclasses.replace(algorithm, microbatches=8)
    whole, metrics = jax.jit(differentiate, static_argnums=0)(algorithm, moved, rollout)
    parts, counted = jax.jit(differentiate, static_argnums=0)(several, moved, rollout)
    assert float(metrics["policy/clipfrac_avg"][0]) > 0 or name == "gspo"
    for want, got in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    for key, (total, weight) in metrics.items():
        assert float(counted[key][0]) == pytest.approx(float(total), rel=1e-4, abs=1e-3), key
        assert float(counted[key][1]) == float(weight), key


def test_a_plain_loss_climbs_the_exact_gradient_of_the_expected_reward():
    """REINFORCE's mean gradient, over enough samples, is that of sum_y p(y) (r(y) - beta log p(y) / q(y))."""
    every = completions()
    ids = jnp.asarray([[*y, *[PAD] * (LENGTH - len(y))] for y in every])
    mask = jnp.asarray([[True] * len(y) + [False] * (LENGTH - len(y)) for y in every])
    reward_Y = jnp.asarray([REWARD[number(y)] for y in every])

    def expected(logits: jax.Array) -> jax.Array:
        logprob_Y = jnp.sum(read({**fresh_params(), "logits": logits}, ids, mask).logprobs_BxT, axis=1)
        reference_Y = jnp.sum(read(fresh_params(), ids, mask).logprobs_BxT, axis=1)
        return jnp.sum(jnp.exp(logprob_Y) * (reward_Y - BETA * (logprob_Y - reference_Y)))

    algorithm = ALGORITHMS["reinforce"]
    exact = np.asarray(jax.jit(jax.grad(expected))(fresh_params()["logits"]))

    @jax.jit
    def sampled(key: jax.Array) -> jax.Array:
        rollout = roll(algorithm, fresh_params(), key)
        return -LENGTH * differentiate(algorithm, fresh_params(), rollout)[0]["logits"]

    found = np.asarray(jax.lax.map(sampled, jax.random.split(jax.random.key(2), 100)))
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - exact) < 5 * error + 1e-3)
    assert np.abs(exact).max() > 0.02
