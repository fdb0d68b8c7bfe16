"""A captioner as its users meet it."""

import dataclasses
import json

import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.types import Completions
from tests.parameters import draw

TEXTS = ["red apple", "green apple", "black cat", "red car", "blue car"]
CONFIG = PolicyConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    decoder=DecoderConfig(vocab_size=300, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    """With small embeddings, so that what comes next depends on the picture more than on the token before."""
    policy = define_policy(CONFIG)
    params = draw(policy.abstract())
    params["decoder"]["embedding"]["embedding"] *= 0.1
    return Captioner(CONFIG, policy, params, CaptionTokenizer.train(TEXTS, 270))


@pytest.fixture(scope="module")
def greedy(captioner) -> Completions:
    return captioner.sample(IMAGES, temperature=0.0)


def test_pictures_get_captions_of_their_own(captioner, greedy):
    assert len(np.unique(greedy.ids_BxT, axis=0)) > 2
    assert captioner.caption(IMAGES) == captioner.tokenizer.decode_batch(greedy.ids_BxT)


def test_seed_has_no_part_in_greedy_captions(captioner, greedy):
    np.testing.assert_array_equal(captioner.sample(IMAGES, temperature=0.0, seed=9).ids_BxT, greedy.ids_BxT)


def test_chunks_change_no_caption(captioner, greedy):
    """Two chunks of 4, the second filled up."""
    chunked = captioner.sample(IMAGES, temperature=0.0, batch=4)
    np.testing.assert_array_equal(chunked.ids_BxT, greedy.ids_BxT)
    np.testing.assert_array_equal(chunked.mask_BxT, greedy.mask_BxT)
    np.testing.assert_allclose(
        captioner.logprobs(IMAGES, greedy, batch=4), captioner.logprobs(IMAGES, greedy), rtol=1e-5
    )


def test_samples_follow_the_seed(captioner):
    one, same, other = (captioner.sample(IMAGES, seed=seed, batch=4).ids_BxT for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    repeated = captioner.sample(np.repeat(IMAGES[:1], 8, axis=0), seed=1, batch=4).ids_BxT
    assert np.any(repeated[:4] != repeated[4:]), "chunks must not repeat each other's noise"


def test_forbidden_tokens_never_appear(captioner):
    """Even when hot enough to be uniform: no padding, begin token or unknown id before the end."""
    done = captioner.sample(np.repeat(IMAGES, 30, axis=0), temperature=1e4, batch=7)
    real = done.ids_BxT[done.mask_BxT]
    known = captioner.tokenizer.vocab_size
    assert known < CONFIG.decoder.vocab_size, "there are ids that no text has"
    assert len(np.unique(real)) > 0.9 * (known - 2)
    assert not np.isin(real, (PAD_ID, BEGIN_ID)).any() and real.max() < known


def every_ending(captioner: Captioner, prefix: list[int]) -> Completions:
    """The prefix with each token of the vocabulary after it."""
    ids = np.zeros((CONFIG.decoder.vocab_size, captioner.architecture.max_length), np.int32)
    ids[:, : len(prefix)] = prefix
    ids[:, len(prefix)] = np.arange(len(ids))
    mask = np.tile(np.arange(captioner.architecture.max_length) <= len(prefix), (len(ids), 1))
    return Completions(ids, mask)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_greedy_tokens_are_the_likeliest(captioner, greedy, temperature):
    """Against every alternative in its place; all together have the probability of what stands before."""
    pictures = np.repeat(IMAGES[:1], CONFIG.decoder.vocab_size, axis=0)
    unknown = np.arange(captioner.tokenizer.vocab_size, CONFIG.decoder.vocab_size)
    whole = 0.0
    for length in (0, 1):
        endings = every_ending(captioner, greedy.ids_BxT[0, :length].tolist())
        logprobs = captioner.logprobs(pictures, endings, temperature=temperature, batch=7)
        assert logprobs.argmax() == greedy.ids_BxT[0, length]
        assert logprobs[[PAD_ID, BEGIN_ID, *unknown]].max() < -1e20
        np.testing.assert_allclose(np.logaddexp.reduce(logprobs), whole, atol=1e-4)
        whole = logprobs.max()


def test_saved_and_loaded_it_says_the_same(captioner, greedy, tmp_path):
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path)
    assert loaded.architecture == CONFIG
    np.testing.assert_array_equal(loaded.sample(IMAGES, temperature=0.0).ids_BxT, greedy.ids_BxT)
    assert loaded.caption(IMAGES) == captioner.caption(IMAGES)
    np.testing.assert_array_equal(loaded.logprobs(IMAGES, greedy), captioner.logprobs(IMAGES, greedy))


def test_a_captioners_picture_stands_first(captioner):
    with pytest.raises(UserError, match="image_token_id"):
        dataclasses.replace(captioner, architecture=dataclasses.replace(CONFIG, image_token_id=5))


def test_folders_of_other_networks_are_refused(captioner, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        Captioner.load(tmp_path)
    captioner.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["decoder"]["width"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="architecture wants"):
        Captioner.load(tmp_path)
