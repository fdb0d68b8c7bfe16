"""Sampling: the right distribution, the right stop, and the same numbers as one pass without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.sampling import begin_prompts, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.rl.generate import Limits, generate, masked_logits, never_sampled
from mmrlhf_jax.types import Completions, Prompts

END, PAD, VOCABULARY = 2, 0, 6
NONE_FORBIDDEN = jnp.zeros(VOCABULARY, bool)
# Row i: logits of the token after token i; row 0 also stands for the beginning.
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)), jnp.float32)


def sample_chain(
    rows: int, length: int, *, table: jax.Array = TABLE, forbidden: jax.Array = NONE_FORBIDDEN, **options
) -> Completions:
    """Completions of a Markov chain with the logits of `table`; its cache counts the steps."""

    def decode_step(ids_B: jax.Array, cache: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return table[ids_B] + 0.0 * (cache - t).astype(jnp.float32), cache + 1

    key = options.pop("key", jax.random.key(0))
    return generate(
        lambda: (jnp.tile(table[:1], (rows, 1)), jnp.zeros((), jnp.int32)),
        decode_step,
        key,
        length=length,
        end_id=options.pop("end_id", END),
        pad_id=PAD,
        forbidden_V=forbidden,
        **options,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def chi_square(ids: np.ndarray, probability: np.ndarray) -> float:
    expected = len(ids) * probability
    counts = np.bincount(ids, minlength=len(probability))
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature):
    ids, mask = sample_chain(20_000, 2, temperature=temperature, end_id=VOCABULARY)
    assert mask.all()
    first, second = np.asarray(ids).T
    limit = 20.5  # the 99.9th percentile of chi-square with 5 degrees of freedom
    assert chi_square(first, softmax(np.asarray(TABLE[0]) / temperature)) < limit
    assert chi_square(first, softmax(np.asarray(TABLE[0]) / (temperature * 1.5))) > limit  # so it can fail
    for token in range(VOCABULARY):
        chance = softmax(np.asarray(TABLE[token]) / temperature)
        assert chi_square(second[first == token], chance) < limit


def test_forbidden_tokens_are_never_sampled_and_the_others_share_their_chance():
    forbidden = jnp.array([True, False, True, False, False, False])
    table = TABLE.at[:, 0].set(50.0)  # the likeliest by far
    ids, _ = sample_chain(20_000, 1, table=table, forbidden=forbidden)
    ids = np.asarray(ids)[:, 0]
    allowed = np.flatnonzero(~np.asarray(forbidden))
    assert set(ids) <= set(allowed)
    chance = softmax(np.asarray(table[0])[allowed])
    assert chi_square(np.searchsorted(allowed, ids), chance) < 16.3  # 99.9 %, 3 degrees of freedom


def test_rows_end_at_the_end_token_and_are_padded():
    ids, mask = (np.asarray(x) for x in sample_chain(500, 8))
    assert ids.shape == mask.shape == (500, 8) and ids.dtype == np.int32
    lengths = mask.sum(1)
    assert set(lengths) >= {1, 2, 8}  # rows that end at once, later, and not at all
    for row, real, length in zip(ids, mask, lengths, strict=True):
        assert real[:length].all() and (row[length:] == PAD).all()
        assert END not in row[: length - 1]
        assert length == 8 or row[length - 1] == END


def test_temperature_zero_takes_the_likeliest_allowed_token():
    forbidden = NONE_FORBIDDEN.at[jnp.argmax(TABLE[0])].set(True)
    ids, _ = sample_chain(3, 5, forbidden=forbidden, temperature=0.0, end_id=VOCABULARY)
    want, token = [], 0
    for _ in range(5):
        token = int(np.argmax(np.where(forbidden, -np.inf, TABLE[token])))
        want.append(token)
    np.testing.assert_array_equal(ids, [want] * 3)


def test_the_key_decides_and_rows_differ():
    one, again, other = (sample_chain(50, 6, key=jax.random.key(seed)).ids_BxT for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({tuple(row) for row in one.tolist()}) > 10


def test_the_step_counter_starts_at_the_first_sampled_token():
    def decode_step(ids_B: jax.Array, cache: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        # token t + 1 is certain after t steps, so each id tells the number that the step was given
        return 1e3 * jax.nn.one_hot(jnp.full_like(ids_B, t + 1), VOCABULARY), cache

    ids, _ = generate(
        lambda: (1e3 * jax.nn.one_hot(jnp.zeros(1, jnp.int32), VOCABULARY), jnp.zeros(())),
        decode_step,
        jax.random.key(0),
        length=4,
        end_id=VOCABULARY,
        pad_id=PAD,
        forbidden_V=NONE_FORBIDDEN,
    )
    assert ids[0].tolist() == [0, 1, 2, 3]


def test_masked_logits_are_those_that_are_sampled_from():
    forbidden = NONE_FORBIDDEN.at[3].set(True)
    logits = masked_logits(TABLE[None], forbidden, 0.5)
    want = softmax(np.where(forbidden, -np.inf, np.asarray(TABLE) / 0.5))
    np.testing.assert_allclose(jax.nn.softmax(logits[0]), want, rtol=1e-5, atol=1e-7)


def truncated_by_hand(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities after top-k and then top-p: likeliest first, until their sum is top_p."""
    order = np.argsort(-logits)
    kept = order[: top_k or len(order)]
    chance = softmax(logits[kept])
    count = next(n for n in range(1, len(kept) + 1) if chance[:n].sum() >= top_p - 1e-9)
    result = np.zeros(len(logits))
    result[kept[:count]] = softmax(logits[kept[:count]])
    return result


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.7), (4, 0.8), (1, 1.0), (0, 0.01), (99, 1.0)])
def test_top_k_and_top_p_sample_from_what_they_leave(top_k, top_p):
    temperature = 1.3
    wanted = truncated_by_hand(np.asarray(TABLE[0], np.float64) / temperature, top_k, top_p)
    limits = Limits(top_k=top_k, top_p=top_p)
    ids, _ = sample_chain(20_000, 1, temperature=temperature, limits=limits, end_id=VOCABULARY)
    kept = np.flatnonzero(wanted)
    assert set(np.asarray(ids)[:, 0]) <= set(kept)
    # mean + 5 standard deviations of chi-square, the 99.9th percentile or above
    degrees = len(kept) - 1
    drawn = np.searchsorted(kept, np.asarray(ids)[:, 0])
    assert chi_square(drawn, wanted[kept]) <= degrees + 5 * np.sqrt(2 * max(degrees, 1))

    never = never_sampled(TABLE[None, :1], NONE_FORBIDDEN, temperature, limits, end_id=VOCABULARY)
    chance = jax.nn.softmax(masked_logits(TABLE[None, :1], never, temperature))  # as the update sees it
    np.testing.assert_allclose(chance[0, 0], wanted, atol=1e-5)


def test_the_nucleus_is_taken_among_what_is_allowed():
    forbidden = NONE_FORBIDDEN.at[jnp.argmax(TABLE[0])].set(True)
    never = never_sampled(TABLE[None, :1], forbidden, 1.0, Limits(top_k=2), end_id=END)
    second_and_third = np.argsort(-np.asarray(TABLE[0]))[1:3]
    assert set(np.flatnonzero(~np.asarray(never[0, 0]))) == set(second_and_third)


def test_no_end_before_the_minimum():
    table = TABLE.at[:, END].set(5.0)  # the end is the likeliest by far
    ids, mask = (np.asarray(x) for x in sample_chain(200, 6, table=table, limits=Limits(min_length=3)))
    assert not (ids[:, :3] == END).any() and (mask.sum(1) >= 4).all()
    assert (ids[:, 3] == END).mean() > 0.9
    never = never_sampled(jnp.zeros((1, 6, VOCABULARY)), NONE_FORBIDDEN, 1.0, Limits(3), end_id=END)
    np.testing.assert_array_equal(never[0, :, END], [True] * 3 + [False] * 3)
    assert not np.asarray(never[0, 3:]).any()


def scanned(rows: int, length: int, key: jax.Array) -> np.ndarray:
    """The same chain without an early exit: every step is taken, in numpy."""
    noise = np.asarray(jax.random.gumbel(key, (length, rows, VOCABULARY), jnp.float32))
    token, ids, ended = np.zeros(rows, int), np.zeros((rows, length), int), np.zeros(rows, bool)
    for t in range(length):
        token = np.argmax(np.asarray(TABLE)[token] + noise[t], axis=-1)
        ids[:, t] = np.where(ended, PAD, token)
        ended |= token == END
    return ids


def test_it_stops_once_every_row_has_ended_and_writes_the_same():
    steps = []

    def decode_step(ids_B: jax.Array, cache: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(steps.append, t)
        return TABLE[ids_B], cache

    key = jax.random.key(3)
    ids, mask = generate(
        lambda: (jnp.tile(TABLE[:1], (8, 1)), jnp.zeros(())),
        decode_step,
        key,
        length=200,
        end_id=END,
        pad_id=PAD,
        forbidden_V=NONE_FORBIDDEN,
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(ids, scanned(8, 200, key))
    longest = int(np.asarray(mask).sum(1).max())
    assert longest < 100 and len(steps) == longest - 1


# The real policy, tiny: 4 picture tokens, 24 words.
TINY = PolicyConfig(
    VisionConfig(image_size=16, patch_size=8, transformer=TransformerConfig(16, 1, 2, 32)),
    DecoderConfig(vocab_size=24, width=16, layers=2, heads=4, kv_heads=2, mlp_width=24),
)
POLICY = define(lambda rngs: VisionLanguagePolicy(TINY, rngs=rngs))
LENGTH = 7
FORBIDDEN = (jnp.arange(24) == PAD_ID) | (jnp.arange(24) == BEGIN_ID) | (jnp.arange(24) >= 20)


@pytest.fixture(scope="module")
def params():
    return POLICY.init(jax.random.key(0))


@pytest.fixture(scope="module")
def image_BxPxD():
    return jax.random.normal(jax.random.key(1), (16, 4, 16))


def left_padded_prompts(rows: int) -> Prompts:
    """Prompts of 1 to 3 tokens, padded on the left."""
    ids = jax.random.randint(jax.random.key(2), (rows, 3), 4, 20)
    mask = jnp.arange(3)[None] >= 2 - jnp.arange(rows)[:, None] % 3
    return Prompts(jnp.where(mask, ids, PAD_ID), mask)


@functools.partial(jax.jit, static_argnames="greedy")
def write(params, image_BxPxD, prompts, key, temperature, greedy=False):
    return sample_completions(
        POLICY.bind(params),
        image_BxPxD,
        prompts,
        key,
        length=LENGTH,
        forbidden_V=FORBIDDEN,
        temperature=0.0 if greedy else temperature,
    )


@jax.jit
def score(params, image_BxPxD, prompts, completions):
    return POLICY.bind(params).score(image_BxPxD, *prompts, *completions).logits_BxTxV


@pytest.mark.parametrize("prompts", [begin_prompts(16), left_padded_prompts(16)], ids=["begin", "padded"])
def test_cached_steps_give_the_logits_of_one_pass(params, image_BxPxD, prompts):
    completions = write(params, image_BxPxD, prompts, jax.random.key(3), 1.0)
    assert len(set(np.asarray(completions.mask_BxT).sum(1))) > 1
    first_slot = image_BxPxD.shape[1] + prompts.ids_BxL.shape[1]

    @jax.jit
    def cached(params):
        policy = POLICY.bind(params)
        first_BxV, cache = policy.prefill(image_BxPxD, *prompts, capacity=LENGTH - 1)

        def step(cache, t):
            logits_BxV, cache = policy.decode_step(completions.ids_BxT[:, t], cache, first_slot + t)
            return cache, logits_BxV

        _, rest_TxBxV = jax.lax.scan(step, cache, jnp.arange(LENGTH - 1))
        return jnp.concatenate([first_BxV[:, None], rest_TxBxV.swapaxes(0, 1)], axis=1)

    both = [
        token_logprobs(masked_logits(logits, FORBIDDEN, 0.7), *completions)
        for logits in (cached(params), score(params, image_BxPxD, prompts, completions))
    ]
    np.testing.assert_allclose(*both, atol=1e-5)
    assert float(jnp.min(both[0])) < -0.5


def test_what_is_sampled_is_as_likely_as_one_pass_says(params, image_BxPxD):
    """The first tokens of many rows for one picture, against the softmax of the teacher-forced pass."""
    rows, temperature = 8192, 0.7
    image = jnp.tile(image_BxPxD[:1], (rows, 1, 1))
    ids = np.asarray(write(params, image, begin_prompts(rows), jax.random.key(4), temperature).ids_BxT)
    one = Completions(jnp.asarray(ids[:1]), jnp.ones((1, LENGTH), bool))
    logits = masked_logits(score(params, image[:1], begin_prompts(1), one), FORBIDDEN, temperature)
    probability = softmax(np.asarray(logits[0, 0]))
    likely = probability * rows >= 5  # where the approximation of chi-square holds
    merged = np.append(probability[likely], probability[~likely].sum() + 1e-12)
    classes = np.where(likely, np.cumsum(likely) - 1, likely.sum())
    assert likely.sum() >= 5
    # mean + 4.5 standard deviations
    degrees = likely.sum()
    assert chi_square(classes[ids[:, 0]], merged / merged.sum()) < degrees + 4.5 * np.sqrt(2 * degrees)


def test_greedy_completions_equal_a_loop_without_a_cache(params, image_BxPxD):
    prompts = left_padded_prompts(16)
    got = write(params, image_BxPxD, prompts, jax.random.key(5), 1.0, greedy=True)
    ids = np.zeros((16, LENGTH), np.int32)
    for t in range(LENGTH):
        # tokens from t on do not matter: the decoder is causal
        logits = score(params, image_BxPxD, prompts, Completions(jnp.asarray(ids), jnp.ones(ids.shape, bool)))
        ids[:, t] = np.argmax(np.where(FORBIDDEN, -np.inf, logits[:, t]), axis=-1)
    ended = np.cumsum(ids == END_ID, axis=1) - (ids == END_ID) > 0
    np.testing.assert_array_equal(got.ids_BxT, np.where(ended, PAD_ID, ids))
    np.testing.assert_array_equal(got.mask_BxT, ~ended)
    assert len({tuple(row) for row in ids.tolist()}) > 3  # pictures and prompts matter


def test_padding_in_front_of_a_prompt_changes_nothing(params, image_BxPxD):
    prompts = Prompts(jnp.array([[BEGIN_ID, 5]] * 16), jnp.ones((16, 2), bool))
    padded = Prompts(
        jnp.pad(prompts.ids_BxL, ((0, 0), (3, 0)), constant_values=9),
        jnp.pad(prompts.mask_BxL, ((0, 0), (3, 0))),
    )
    one, other = (write(params, image_BxPxD, p, jax.random.key(6), 1.0) for p in (prompts, padded))
    np.testing.assert_array_equal(one.ids_BxT, other.ids_BxT)
