"""The rates of a config, and what the reference policy earns before training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training import rollout as rollouts
from mmrlhf_jax.training.config import PPOConfig, RewardWeights
from mmrlhf_jax.training.config.adapt import LoraConfig
from mmrlhf_jax.training.networks import Frozen
from mmrlhf_jax.training.policy_stage import kept_reference
from mmrlhf_jax.types import Completions
from tests.ppo_steps import CONFIG, KEY, tiled
from tests.tiny_networks import NETWORKS, PICTURES, make_frozen

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return make_frozen()


def test_hyper_takes_every_rate_from_the_config():
    values = {
        name: 0.01 * (i + 1)
        for i, name in enumerate(ppo.Hyper._fields)
        if name not in ("learning_rate", "dual_clip", "weights", "lora_scale", "critic_factor")
    }
    config = PPOConfig(
        **{**values, "kl_horizon": 1e6, "dual_clip": 3.0},
        weights=RewardWeights(0.1, 0.2, 0.3),
        critic="separate",
        critic_learning_rate=0.14,
        lora=LoraConfig(rank=4, alpha=12.0),
        optimizer=OptimizerConfig(learning_rate=0.7),
    )
    hyper = ppo.Hyper.of(config)
    for name, value in {**values, "kl_horizon": 1e6, "dual_clip": 3.0, "learning_rate": 0.7}.items():
        assert float(getattr(hyper, name)) == pytest.approx(value)
    assert float(hyper.critic_factor) == pytest.approx(0.2) and float(hyper.lora_scale) == pytest.approx(3.0)
    got = {name: float(value) for name, value in hyper.weights.items()}
    weights = {"fluency": 0.1, "image_accuracy": 0.2, "preference": 0.3}
    assert got == pytest.approx(dict.fromkeys(got, 0.0) | weights)


def test_the_normaliser_is_that_of_samples_of_the_reference(frozen, monkeypatch):
    """For a term whose mean is known: whether the first token is a certain one."""
    token, temperature = 7, 0.5

    def first_token(judges, views, completions):
        return {"first": (completions.ids_BxT[:, 0] == token).astype(jnp.float32)}

    monkeypatch.setattr(rollouts, "raw_terms", first_token)
    config = dataclasses.replace(CONFIG, temperature=temperature)
    looked = frozen._replace(views=tiled(frozen.views, 16))
    (mean, std), by_picture = rollouts.reference_statistics(NETWORKS, config, looked, KEY)

    nothing = Completions(jnp.zeros((PICTURES, 1), jnp.int32), jnp.ones((PICTURES, 1), bool))
    policy = NETWORKS.policy.bind(frozen.reference)
    logits = policy.score(frozen.views.policy_NxPxD, *begin_prompts(PICTURES), *nothing).logits_BxTxV
    allowed = np.where(NETWORKS.forbidden, -np.inf, np.asarray(logits[:, 0]) / temperature)
    chance_P = np.exp(allowed)[:, token] / np.exp(allowed).sum(-1)
    chance = chance_P.mean()
    spread = np.sqrt(chance * (1 - chance))
    assert float(mean["first"]) == pytest.approx(chance, abs=4 * spread / np.sqrt(64 * PICTURES))
    assert float(std["first"]) == pytest.approx(spread, rel=0.3)
    assert by_picture["first"].shape == (16 * PICTURES,)
    own_P = np.asarray(by_picture["first"]).reshape(16, PICTURES).mean(axis=0)
    noise_P = np.sqrt(chance_P * (1 - chance_P) / (16 * rollouts.REFERENCE_SAMPLES))
    assert np.all(np.abs(own_P - chance_P) < 4.5 * noise_P + 1e-6)


def test_what_the_reference_earned_is_kept_until_a_network_a_picture_or_a_setting_changes(
    frozen, monkeypatch, tmp_path
):
    calls = []
    monkeypatch.setattr(
        rollouts,
        "raw_terms",
        lambda judges, views, completions: dict.fromkeys(
            NETWORKS.terms(), calls.append(1) or completions.ids_BxT[:, 0].astype(jnp.float32)
        ),
    )

    def statistics(frozen: Frozen, config: PPOConfig = CONFIG):
        calls.clear()
        kept = kept_reference(config, NETWORKS, frozen, KEY, tmp_path / "reference")
        (mean, std), by_picture = rollouts.reference_statistics(NETWORKS, config, frozen, KEY, kept)
        return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), (mean, std, by_picture))

    first = statistics(frozen)
    assert calls and first == statistics(frozen)  # bit for bit
    assert not calls
    other = jax.tree.map(lambda leaf: leaf * 1.01, frozen.reference)
    statistics(frozen._replace(reference=other))
    assert calls
    views = frozen.views._replace(policy_NxPxD=frozen.views.policy_NxPxD + 0.1)
    statistics(frozen._replace(views=views))
    assert calls
    statistics(frozen)
    statistics(frozen, dataclasses.replace(CONFIG, temperature=0.5))
    assert calls


def test_terms_that_are_no_numbers_are_told_and_not_kept(frozen, monkeypatch, tmp_path):
    def nothing(judges, views, completions):
        return dict.fromkeys(NETWORKS.terms(), completions.ids_BxT[:, 0].astype(jnp.float32) * jnp.nan)

    monkeypatch.setattr(rollouts, "raw_terms", nothing)
    kept = kept_reference(CONFIG, NETWORKS, frozen, KEY, tmp_path / "reference")
    with pytest.raises(UserError, match=f"'{min(NETWORKS.terms())}' is not a finite number"):
        rollouts.reference_statistics(NETWORKS, CONFIG, frozen, KEY, kept)
    assert not (tmp_path / "reference" / "manifest.json").exists()
