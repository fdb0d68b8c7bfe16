"""Reinforcement with words before the answer, in a run without CLIP and language model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, RewardConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import encode_prompts, forbidden_tokens
from mmrlhf_jax.reward.composite import Normaliser, require_terms
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training.config import PPOConfig, RewardWeights
from mmrlhf_jax.training.networks import Frozen, Networks, look, no_views
from mmrlhf_jax.training.rollout import Hyper, evaluate_rollout, judge
from mmrlhf_jax.types import Completions
from tests.tiny_networks import make_rules

pytestmark = pytest.mark.medium

SAID = ["so that was the trip.", "wow", "i adore the cat.", "wow"]
ANSWERS = ["wow , a twist", "wow", "the cat", "a trip"]
TOKENIZER = CaptionTokenizer.train([*SAID, *ANSWERS] * 3, 320)
POLICY = PolicyConfig(
    VisionConfig(16, 8, TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)),
    DecoderConfig(vocab_size=320, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16),
    max_length=6,
    prompt_length=8,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
IDS = TOKENIZER.encode_batch(ANSWERS, 6)
COMPLETIONS = Completions(jnp.asarray(IDS), jnp.asarray(IDS != PAD_ID))
FORBIDDEN = tuple(np.asarray(forbidden_tokens(320, TOKENIZER.vocab_size)).tolist())
CONFIG = PPOConfig(batch=4, kl_horizon=100.0, weights=RewardWeights(0.0, 0.0, 1.0), epochs=1, minibatches=1)
HYPER = Hyper.of(CONFIG)


def networks(picture: bool = True) -> Networks:
    policy = dataclasses.replace(POLICY, picture=picture)
    reward = define_reward_model(RewardConfig(clip=None, policy=POLICY, picture=picture))
    return Networks(define_policy(policy), None, None, reward, 6, FORBIDDEN)


def frozen_with(networks: Networks, length: int, images: np.ndarray = IMAGES) -> Frozen:
    reference = networks.policy.init(jax.random.key(0))
    reward = networks.reward_model.init(jax.random.key(1))
    one = {"preference": jnp.asarray(1.0)}
    rest = {name: jnp.asarray(1.0) for name in ("considerate_wording", "length", "repetition")}
    words = make_rules().words
    rules = make_rules()._replace(
        words=words._replace(**{f: jnp.zeros((1, 320), getattr(words, f).dtype) for f in words._fields[:2]})
    )
    normaliser = Normaliser(one | rest, one | rest)
    frozen = Frozen(reference, None, None, reward, no_views(), normaliser, rules)
    views = look(networks, frozen, images)._replace(prompts=encode_prompts(SAID, TOKENIZER, length))
    return frozen._replace(views=views)


@functools.partial(jax.jit, static_argnums=0)
def rolled(networks: Networks, frozen: Frozen):
    ledger = judge(networks, frozen, frozen.views, COMPLETIONS, HYPER)
    state = ppo.init_state(frozen.reference, CONFIG, jax.random.key(0))
    rollout, _ = evaluate_rollout(
        networks, CONFIG.choices, state, frozen, frozen.views, COMPLETIONS, ledger, HYPER
    )
    return ledger.raw, rollout.logprobs_BxT, rollout.values_BxT


SEEING = networks()


@pytest.fixture(scope="module")
def padded():
    """Rewards, log-probabilities and values with prompts of the shortest length, and padded."""
    shortest = encode_prompts(SAID, TOKENIZER).ids_BxL.shape[1]
    return [rolled(SEEING, frozen_with(SEEING, length)) for length in (shortest, shortest + 3)]


def test_padding_of_prompts_changes_nothing_in_a_rollout(padded):
    for one, other in zip(*map(jax.tree.leaves, padded), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_log_probabilities_are_those_of_the_policy_with_these_prompts(padded):
    frozen = frozen_with(SEEING, 8)
    captioner = Captioner(POLICY, SEEING.policy, frozen.reference, TOKENIZER)
    own = np.asarray(padded[0][1]).sum(axis=1)
    np.testing.assert_allclose(own, captioner.logprobs(IMAGES, COMPLETIONS, SAID), atol=1e-4)
    assert np.abs(own - captioner.logprobs(IMAGES, COMPLETIONS, SAID[::-1])).max() > 1e-3


def test_the_reward_model_reads_the_answer_behind_its_prompt(padded):
    texts = [f"{said} {answer}" for said, answer in zip(SAID, ANSWERS, strict=True)]
    ids = jnp.asarray(TOKENIZER.encode_batch(texts, POLICY.text_length))
    frozen = frozen_with(SEEING, 8)
    model = SEEING.reward_model.bind(frozen.reward_model)
    wanted = model.judge(frozen.views.reward_model, ids, ids != PAD_ID).reward_B
    np.testing.assert_allclose(padded[0][0]["preference"], wanted, atol=1e-5)
    assert np.ptp(np.asarray(wanted)) > 1e-4


def test_terms_of_networks_that_are_not_there_are_left_out(padded):
    assert set(padded[0][0]) == {"preference", "considerate_wording", "length", "repetition"}
    assert set(SEEING.terms()) == set(padded[0][0])
    require_terms({"preference": 1.0, "fluency": 0.0}, SEEING.terms())
    with pytest.raises(UserError, match=r"no language model: .*--weights\.fluency 0"):
        require_terms({"fluency": 0.1}, SEEING.terms())
    with pytest.raises(UserError, match="no clip"):
        require_terms({"image_accuracy": 0.5}, SEEING.terms())


def test_without_the_picture_nothing_depends_on_it():
    blind = networks(picture=False)
    frozen, other = frozen_with(blind, 8), frozen_with(blind, 8, 255 - IMAGES)
    assert frozen.views.policy_NxPxD.shape == (4, 0, 16)
    for one, two in zip(*(jax.tree.leaves(rolled(blind, each)) for each in (frozen, other)), strict=True):
        np.testing.assert_array_equal(one, two)
    seeing = rolled(SEEING, frozen_with(SEEING, 8, 255 - IMAGES))
    assert np.abs(seeing[1] - rolled(SEEING, frozen_with(SEEING, 8))[1]).max() > 1e-4


def test_an_iteration_starts_at_the_reference_and_moves():
    frozen = frozen_with(SEEING, 8)
    update = jax.jit(functools.partial(ppo.update_step, SEEING, CONFIG))
    state, metrics = update(
        ppo.init_state(frozen.reference, CONFIG, jax.random.key(0)), frozen, HYPER, jax.random.key(0)
    )
    numbers = finalize(metrics)
    assert numbers["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert numbers["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    before, after = (jax.tree.leaves(params["decoder"]) for params in (frozen.reference, state.params))
    assert max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) > 0
