"""The reward that a step optimises: the logged one, bit for bit, and computed no more often than needed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.data.tokens import END_ID, CaptionTokenizer
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define, equal_params
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.policy.sampling import begin_prompts, forbidden_tokens
from mmrlhf_jax.reward.composite import TERMS, Normaliser, Views
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.ledger import ledger_numbers
from mmrlhf_jax.reward.model import Seen
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training import rollout
from mmrlhf_jax.training.config import PPOConfig, RewardWeights, TermsConfig
from mmrlhf_jax.training.guard import first_term
from mmrlhf_jax.training.judges import embed_references, make_rules, unshared
from mmrlhf_jax.training.networks import Frozen, Networks, bind_judges, encode_views
from mmrlhf_jax.types import Completions
from tests.parameters import draw

pytestmark = pytest.mark.medium

PICTURES, LENGTH, VOCABULARY = 8, 6, 280
TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
VISION = VisionConfig(image_size=64, patch_size=32, transformer=TOWER)
DECODER = DecoderConfig(vocab_size=VOCABULARY, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16)
CLIP_CONFIG = CLIPConfig(VISION, TextConfig(VOCABULARY, LENGTH, TOWER), 12)
POLICY = PolicyConfig(VISION, DECODER)
TOKENIZER = CaptionTokenizer.train(["a red cat", "two dogs"], vocab_size=270)
ALL = RewardWeights(*[0.3 + 0.1 * i for i in range(len(TERMS))])
CONFIG = PPOConfig(
    batch=PICTURES,
    epochs=1,
    minibatches=1,
    kl_horizon=100.0,
    weights=ALL,
    terms=TermsConfig(shortest=3, longest=4),
    optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.0),
)
NETWORKS = Networks(
    define_policy(POLICY),
    define(lambda rngs: Decoder(DECODER, rngs=rngs)),
    define(lambda rngs: CLIP(CLIP_CONFIG, rngs=rngs)),
    define_reward_model(RewardConfig(CLIP_CONFIG, "weighted_sum", 16, POLICY, DECODER)),
    LENGTH,
    tuple(np.asarray(forbidden_tokens(VOCABULARY, 11)).tolist()),  # few tokens, so that the end often comes
)
HYPER = ppo.Hyper.of(CONFIG)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def apart() -> Frozen:
    """The reward model's captioner equals the reference and its language model the judge: a file's copies."""
    networks = (NETWORKS.policy, NETWORKS.language_model, NETWORKS.clip, NETWORKS.reward_model)
    params = [draw(network.abstract(), i) for i, network in enumerate(networks)]
    params[3] |= jax.tree.map(jnp.copy, {"captioner": params[0], "language_model": params[1]})
    rng = np.random.default_rng(0)
    tokens, classed, embed, names = (
        jnp.asarray(rng.normal(size=(PICTURES, *shape)), jnp.float32)
        for shape in ((4, 16), (5, 16), (12,), (1, 12))
    )
    seen = Seen(classed, unit_length(embed), tokens)
    views = Views(tokens, seen, unit_length(embed), references_NxRxD=unit_length(names))
    scale = {name: jnp.asarray(0.5) for name in TERMS}
    rules = make_rules(CONFIG.terms, TOKENIZER, VOCABULARY)
    return Frozen(*params, views, Normaliser(scale, scale), rules)


@pytest.fixture(scope="module")
def frozen(apart) -> Frozen:
    """The same, with one set of parameters for both, as a run has it."""
    own = unshared(apart.reward_model, {"captioner": apart.reference, "language_model": apart.language_model})
    seen = apart.views.reward_model._replace(captioner_BxPxD=None)
    return apart._replace(reward_model=own, views=apart.views._replace(reward_model=seen))


@pytest.fixture(scope="module")
def step(frozen):
    """A step of a policy that has left the reference → state before and after, metrics, inner arrays."""
    module = rollout
    seen = {}
    compose, token_rewards = module.compose, module.token_rewards

    def keep(**arrays):
        seen.update(jax.tree.map(np.asarray, arrays))

    def composed(*args, **options):
        ledger = compose(*args, **options)
        jax.debug.callback(keep, ledger=ledger)
        return ledger

    def rewarded(scores_B, kl_BxT, mask_BxT, kl_coef):
        rewards_BxT = token_rewards(scores_B, kl_BxT, mask_BxT, kl_coef)
        jax.debug.callback(keep, scores=scores_B, kl=kl_BxT, mask=mask_BxT, rewards=rewards_BxT)
        return rewards_BxT

    def traced(state, frozen, hyper):
        return ppo.update_step(NETWORKS, CONFIG, state, frozen, hyper, KEY)

    start = ppo.init_state(frozen.reference, CONFIG, KEY)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.05 * jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape),
        start.params,
    )
    jitted = jax.jit(traced)

    def run(hyper=HYPER, kl_coef=0.05, frozen=frozen):
        state = start._replace(params=moved, kl_coef=jnp.asarray(kl_coef))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "compose", composed)
            patch.setattr(module, "token_rewards", rewarded)
            after, metrics = jax.block_until_ready(jitted(state, frozen, hyper))
        jax.effects_barrier()
        return state, after, finalize(metrics), dict(seen)

    return run


@pytest.mark.parametrize("whitened", [0.0, 1.0])
def test_the_logged_sum_is_the_optimised_reward_bit_for_bit(step, whitened):
    hyper = HYPER._replace(whiten_terms=jnp.asarray(whitened))
    _, _, numbers, seen = step(hyper)
    ledger, kl, mask = seen["ledger"], seen["kl"], seen["mask"]
    total = np.zeros(PICTURES, np.float32)
    for name in TERMS:
        assert whitened or ledger.weighted[name].any(), name
        total = total + ledger.weighted[name]
    assert total.tobytes() == ledger.total_B.tobytes()

    last = mask.sum(axis=1) - 1
    assert (last < LENGTH - 1).sum() > 0  # some end early
    ended = numbers["objective/ended"] * PICTURES
    penalised = total != seen["scores"]
    assert penalised.sum() == PICTURES - ended
    scores = np.where(penalised, total - np.float32(CONFIG.missing_end_penalty), total)
    assert scores.tobytes() == seen["scores"].tobytes()

    penalty = np.where(mask, -np.float32(0.05) * kl, np.float32(0))
    assert np.abs(penalty).max() > 1e-4
    want = penalty.copy()
    want[np.arange(PICTURES), last] += scores
    assert want.tobytes() == seen["rewards"].tobytes()
    assert numbers["objective/scores"] == pytest.approx(scores.mean(), rel=1e-5)
    logged = sum(numbers[f"rewards/{name}/weighted"] for name in TERMS)
    assert logged == pytest.approx(total.mean(), abs=1e-5)


def test_the_ledger_of_a_step_has_every_term(step):
    written = ledger_numbers(step()[2])
    for name in TERMS:
        for kind in ("mean", "normalised", "weighted", "share"):
            assert np.isfinite(written[f"rewards/{name}/{kind}"]), (name, kind)
    assert sum(written[f"rewards/{name}/share"] for name in TERMS) == pytest.approx(1.0, abs=1e-6)
    assert not [name for name in written if name.startswith("moments")]


def test_where_all_rewards_are_equal_nothing_breaks(step):
    nothing = jax.tree.map(jnp.zeros_like, HYPER.weights)
    for whitened in (0.0, 1.0):
        still = HYPER._replace(
            weights=nothing,
            missing_end_penalty=jnp.asarray(0.0),
            whiten_terms=jnp.asarray(whitened),
            value_weight=jnp.asarray(0.0),
        )
        state, after, numbers, seen = step(still, kl_coef=0.0)
        assert not seen["rewards"].any() and numbers["objective/scores"] == 0.0
        assert numbers["skipped_steps"] == 0.0
        for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
            np.testing.assert_allclose(one, other, atol=0.02)  # Adam moves no further than its rate
        assert np.isnan(ledger_numbers(numbers)["rewards/fluency/share"])


def test_a_term_that_is_not_a_number_ends_the_run_by_its_name_before_it_begins(frozen, monkeypatch):
    def terms(networks, config, frozen, views, key):
        return {"fluency": jnp.zeros((8, 4)), "length": jnp.zeros((8, 4)).at[3, 2].set(jnp.inf)}

    monkeypatch.setattr(rollout, "reference_terms", terms)
    with pytest.raises(UserError, match="'length' is not a finite number"):
        rollout.reference_statistics(NETWORKS, CONFIG, frozen, KEY)


def test_a_term_that_is_not_a_number_is_the_first_that_the_guard_names(step, frozen):
    blind = frozen._replace(views=frozen.views._replace(clip_NxD=frozen.views.clip_NxD * jnp.nan))
    _, _, numbers, _ = step(frozen=blind)
    assert numbers["skipped_steps"] == 1.0
    pairs = {name: (np.asarray(value), np.ones(())) for name, value in numbers.items()}
    assert first_term(pairs) == "rewards/image_accuracy/mean"
    assert np.isnan(ledger_numbers(numbers)["rewards/fluency/share"])


@jax.jit
def read_twice(frozen: Frozen, completions: Completions):
    """The terms that read with a likelihood, and the reference's log-probabilities: a step needs all."""
    judges = bind_judges(NETWORKS, frozen)
    terms = [TERMS[name](judges, frozen.views, completions) for name in ("fluency", "preference")]
    policy = NETWORKS.policy.bind(frozen.reference)
    scored = policy.score(frozen.views.policy_NxPxD, *begin_prompts(PICTURES), *completions)
    return terms, token_logprobs(scored.logits_BxTxV, *completions)


@pytest.mark.slow
def test_shared_networks_are_computed_once_and_give_the_same(apart, frozen):
    assert not {"captioner", "language_model"} & set(frozen.reward_model)
    ids = jax.random.randint(KEY, (PICTURES, LENGTH), 3, 270).at[0, 2].set(END_ID)
    mask = jnp.arange(LENGTH)[None] < jnp.where(jnp.arange(PICTURES) == 0, 3, LENGTH)[:, None]
    completions = Completions(ids, mask)
    programs = [read_twice.lower(leaves, completions).compile() for leaves in (apart, frozen)]
    want, got = (program(f, completions) for program, f in zip(programs, (apart, frozen), strict=True))
    for one, other in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    apart_flops, shared_flops = (program.cost_analysis()["flops"] for program in programs)
    assert shared_flops < 0.7 * apart_flops


def test_pictures_are_looked_at_once_by_what_is_shared(apart, frozen):
    pictures = jnp.zeros((2, 64, 64, 3), jnp.uint8)
    alone, shared = (
        jax.eval_shape(functools.partial(encode_views, NETWORKS), f, pictures) for f in (apart, frozen)
    )
    assert alone.reward_model.captioner_BxPxD.shape == alone.policy_NxPxD.shape == (2, 4, 16)
    assert shared.reward_model.captioner_BxPxD is None and shared.policy_NxPxD.shape == (2, 4, 16)


def test_references_are_embeddings_of_the_names(apart):
    names = ["a red cat", "two dogs", "two dogs"]
    got = embed_references(NETWORKS.clip, apart.clip, TOKENIZER, names, LENGTH)
    assert got.shape == (3, 1, 12)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(got[1], got[2])
    assert np.abs(got[0] - got[1]).max() > 1e-3


def test_parts_that_differ_are_not_shared(apart):
    shared = {"captioner": apart.reference, "language_model": apart.language_model}
    other = jax.tree.map(lambda leaf: leaf, apart.reward_model["captioner"])
    other["value_head"]["bias"] = other["value_head"]["bias"] + 1e-3
    left = unshared(apart.reward_model | {"captioner": other}, shared)
    assert "captioner" in left and "language_model" not in left and "clip" in left
    assert equal_params(apart.reference, apart.reward_model["captioner"])
    assert not equal_params(apart.reference, {**apart.reference, "more": jnp.zeros(1)})
    assert not equal_params({"a": jnp.zeros(2)}, {"a": jnp.zeros(2, jnp.bfloat16)})
    assert not equal_params({"a": jnp.zeros(2)}, {"a": jnp.zeros(1)})


def test_configs_say_what_is_wrong_with_terms():
    with pytest.raises(UserError, match=r"--terms\.shortest 9 is above --terms\.longest 4"):
        TermsConfig(shortest=9, longest=4)
    with pytest.raises(UserError, match=r"give --terms\.text-scorer MODULE:FUNCTION"):
        PPOConfig(weights=RewardWeights(text=0.5))
    with pytest.raises(UserError, match="repetition"):
        RewardWeights(repetition=-1.0)
    assert dataclasses.replace(CONFIG, terms=TermsConfig(text_scorer="a:b"), weights=RewardWeights(text=1.0))
