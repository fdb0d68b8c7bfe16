"""DPO on a tiny captioner: what is precomputed, what moves, and that preferences are learned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import encode_prompts
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training.adaptation import merged
from mmrlhf_jax.training.config import DPOConfig
from mmrlhf_jax.training.dpo import (
    Pairs,
    answer_logprobs,
    init_state,
    measure,
    to_device,
    update_step,
)
from mmrlhf_jax.types import Completions

pytestmark = pytest.mark.medium

TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
WORDS = ["red cat", "blue dog", "green cat", "red dog"]
CONFIG = DPOConfig(
    batch=8, steps=60, optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=1, weight_decay=0.0)
)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    tokenizer = CaptionTokenizer.train(WORDS, vocab_size=280)
    decoder = DecoderConfig(
        vocab_size=tokenizer.vocab_size + 3, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16
    )
    architecture = PolicyConfig(VisionConfig(16, 8, TOWER), decoder, 6)
    policy = define_policy(architecture)
    return Captioner(architecture, policy, policy.init(jax.random.key(0)), tokenizer)


@pytest.fixture(scope="module")
def pairs(captioner) -> Pairs:
    """Cats are preferred, whatever the picture shows."""
    rng = np.random.default_rng(0)
    cats, dogs = ["red cat", "green cat"], ["blue dog", "red dog"]
    preferences = PreferenceSet(
        images_NxHxWxC=rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8),
        image_index_P=np.arange(12, dtype=np.int32) % 3,
        prompts=["", "red", "blue dog"] * 4,
        chosen=[cats[i % 2] for i in range(12)],
        rejected=[dogs[i // 2 % 2] for i in range(12)],
    )
    return to_device(preferences, captioner)


@pytest.fixture(scope="module")
def update(captioner, pairs):
    step = jax.jit(functools.partial(update_step, captioner.policy, CONFIG))
    fixed = (captioner.params, captioner.forbidden_V, pairs, jax.random.key(1))
    return lambda state: step(state, *fixed)


@pytest.fixture(scope="module")
def trained(captioner, update):
    """The first metrics, and state and metrics after all steps."""
    state = init_state(captioner.params, CONFIG)
    state, first = update(state)
    for _ in range(CONFIG.steps - 1):
        state, last = update(state)
    return finalize(first), state, finalize(last)


def test_prompts_begin_with_the_begin_token_and_are_padded_on_the_left(captioner):
    ids, mask = (np.asarray(x) for x in encode_prompts(["", "red", "blue dog"], captioner.tokenizer))
    texts = captioner.tokenizer.encode_batch(["red", "blue dog"], 6)
    words = [[i for i in row.tolist() if i not in (PAD_ID, END_ID)] for row in texts]
    for row, real, wanted in zip(ids, mask, [[], *words], strict=True):
        assert row[real].tolist() == [BEGIN_ID, *wanted]
        assert real.tolist() == sorted(real.tolist())  # padding comes first
    assert mask[2].all()
    np.testing.assert_array_equal(encode_prompts(["", ""], captioner.tokenizer).ids_BxL, [[BEGIN_ID]] * 2)


def test_the_reference_is_the_captioner_itself(captioner, pairs):
    """Pairs without a prompt, scored as the captioner scores completions."""
    rows = np.arange(0, 12, 3)  # of picture 0, without a prompt
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)[:1]
    for side in range(2):
        completions = Completions(*(np.asarray(leaf)[side, rows] for leaf in pairs.answers.completions))
        wanted = captioner.logprobs(np.repeat(image, 4, axis=0), completions)
        np.testing.assert_allclose(pairs.answers.reference_2xP[side, rows], wanted, rtol=1e-4, atol=1e-4)


def test_a_prompt_is_read_and_padding_is_not(captioner, pairs):
    without = pairs._replace(prompts=jax.tree.map(lambda leaf: leaf[jnp.zeros(12, int)], pairs.prompts))
    shorter = without._replace(prompts=jax.tree.map(lambda leaf: leaf[:, -1:], without.prompts))
    with_prompt, bare, trimmed = (answer_logprobs(captioner, p) for p in (pairs, without, shorter))
    np.testing.assert_allclose(bare, trimmed, rtol=1e-5, atol=1e-5)
    assert np.abs(with_prompt - bare)[:, 1::3].min() > 1e-3


def test_it_starts_at_the_reference(trained):
    first, _, _ = trained
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    for name in ("chosen", "rejected", "margins"):
        assert first[f"rewards/{name}"] == pytest.approx(0.0, abs=1e-4)
    assert first["logps/chosen"] < 0 and first["skipped_steps"] == 0


def test_preferences_are_learned_and_the_towers_stay(captioner, pairs, trained):
    first, state, last = trained
    assert last["rewards/accuracies"] == 1.0 and last["loss"] < 0.5 * first["loss"]
    sides = last["rewards/chosen"] - last["rewards/rejected"]
    assert last["rewards/margins"] == pytest.approx(sides, abs=1e-4)
    assert set(state.params) == {"decoder"}  # of a value head nothing is learned
    result = measure(merged(captioner, state.params, 1.0), pairs)
    assert result["accuracy"].mean == 1.0 and result["pairs"] == 12 and result["margin_nats"] > 5
    untouched = measure(captioner, pairs)
    assert untouched["accuracy"].mean == 0.5  # all margins are zero: ties


def test_a_higher_beta_stays_nearer(captioner, pairs):
    """After the same steps of ipo, whose margin is to reach 1 / (2 beta)."""
    margins = []
    for beta in (0.1, 1.0):
        config = dataclasses.replace(CONFIG, beta=beta, loss="ipo", batch=12, steps=80)
        step = jax.jit(functools.partial(update_step, captioner.policy, config))
        state = init_state(captioner.params, config)
        for _ in range(config.steps):
            state, _ = step(state, captioner.params, captioner.forbidden_V, pairs, jax.random.key(1))
        margins.append(measure(merged(captioner, state.params, 1.0), pairs)["margin_nats"])
    assert margins[0] == pytest.approx(5.0, rel=0.2) and margins[1] == pytest.approx(0.5, rel=0.2)
