"""Words before the answer: padding changes nothing, and a policy can go without the picture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import encode_prompts, join_prompts
from mmrlhf_jax.types import Completions, Prompts

pytestmark = pytest.mark.medium

TOKENIZER = CaptionTokenizer.train(["so that was the trip.", "wow , a twist", "i adore the cat."] * 3, 320)
SAID = ["so that was the trip.", "wow", "i adore the cat."]
CONFIG = PolicyConfig(
    VisionConfig(16, 8, TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)),
    DecoderConfig(vocab_size=320, width=16, layers=2, heads=2, kv_heads=2, mlp_width=16),
    max_length=6,
    prompt_length=8,
)
POLICY = define_policy(CONFIG)
PARAMS = POLICY.init(jax.random.key(0))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
IDS = TOKENIZER.encode_batch(["wow , a twist", "wow", "the cat"], 6)
COMPLETIONS = Completions(jnp.asarray(IDS), jnp.asarray(IDS != PAD_ID))


def captioner(config: PolicyConfig = CONFIG) -> Captioner:
    return Captioner(config, define_policy(config), PARAMS, TOKENIZER)


def logprobs(config: PolicyConfig, image: np.ndarray = IMAGES) -> np.ndarray:
    return captioner(config).logprobs(image, COMPLETIONS, SAID)


def score(prompts: Prompts, picture_B: jax.Array | None = None) -> np.ndarray:
    policy = POLICY.bind(PARAMS)
    image = policy.encode(jnp.asarray(IMAGES, jnp.float32) / 255)
    scored = policy.score(image, *prompts, *COMPLETIONS, picture_B)
    return np.asarray(token_logprobs(scored.logits_BxTxV, *COMPLETIONS))


def test_prompts_are_padded_on_the_left_to_the_length_asked_for():
    ids, mask = (np.asarray(x) for x in encode_prompts(["wow", "so that was the trip."], TOKENIZER, 5))
    wow, so = (TOKENIZER.encode_batch([text], 9)[0] for text in ("wow", "so that was the trip."))
    assert ids[0].tolist() == [PAD_ID, PAD_ID, PAD_ID, BEGIN_ID, wow[0]]
    assert ids[1].tolist() == [BEGIN_ID, *so[:4]]  # cut at its end, the begin token kept
    assert mask.tolist() == [[False] * 3 + [True] * 2, [True] * 5]


def test_padding_of_prompts_changes_no_log_probability():
    shortest = encode_prompts(SAID, TOKENIZER)
    for length in (8, 11):
        padded = encode_prompts(SAID, TOKENIZER, length)
        assert padded.ids_BxL.shape[1] > shortest.ids_BxL.shape[1]
        np.testing.assert_allclose(score(padded), score(shortest), atol=1e-5)


def test_the_prompt_matters():
    other = encode_prompts(["wow", "i adore the cat.", "so"], TOKENIZER, 8)
    assert np.abs(score(other) - score(encode_prompts(SAID, TOKENIZER, 8))).max() > 1e-3


def test_padding_of_prompts_changes_no_sample():
    one, other = (
        captioner(dataclasses.replace(CONFIG, prompt_length=length)).caption(IMAGES, SAID)
        for length in (8, 12)
    )
    assert one == other


def test_a_prompt_and_its_answer_joined_are_what_the_tokenizer_makes_of_both():
    joined = join_prompts(encode_prompts(SAID, TOKENIZER, 9), COMPLETIONS)
    texts = [
        f"{said} {answer}" for said, answer in zip(SAID, ["wow , a twist", "wow", "the cat"], strict=True)
    ]
    np.testing.assert_array_equal(joined.ids_BxT, TOKENIZER.encode_batch(texts, 9 - 1 + 6))
    np.testing.assert_array_equal(joined.mask_BxT, np.asarray(joined.ids_BxT) != PAD_ID)
    assert (np.sum(np.asarray(joined.ids_BxT) == END_ID, axis=1) == 1).all()


def test_a_picture_left_out_is_as_if_the_policy_never_looked():
    prompts = encode_prompts(SAID, TOKENIZER, 8)
    some = score(prompts, jnp.array([True, False, True]))
    blind = dataclasses.replace(CONFIG, picture=False)
    never = define_policy(blind).bind(PARAMS).score(jnp.zeros((3, 0, 16)), *prompts, *COMPLETIONS)
    blind_BxT = np.asarray(token_logprobs(never.logits_BxTxV, *COMPLETIONS))
    np.testing.assert_allclose(some[1], blind_BxT[1], atol=1e-5)
    np.testing.assert_allclose(some[[0, 2]], score(prompts)[[0, 2]], atol=1e-5)
    assert np.abs(some[0] - blind_BxT[0]).max() > 1e-4


def test_a_policy_without_the_picture_says_the_same_to_any(tmp_path):
    blind = captioner().without_picture()
    assert blind.caption(IMAGES, SAID) == blind.caption(255 - IMAGES, SAID)
    np.testing.assert_array_equal(logprobs(blind.architecture), logprobs(blind.architecture, 255 - IMAGES))
    assert np.abs(logprobs(CONFIG) - logprobs(CONFIG, 255 - IMAGES)).max() > 1e-4
    blind.save(tmp_path)
    assert not Captioner.load(tmp_path).architecture.picture


def test_a_captioner_takes_no_words():
    with pytest.raises(UserError, match="without prompts"):
        captioner(dataclasses.replace(CONFIG, prompt_length=1)).caption(IMAGES, SAID)
