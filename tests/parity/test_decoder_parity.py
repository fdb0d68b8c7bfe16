"""Our Decoder, and the policy around it, against transformers' LlamaForCausalLM of tiny architectures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.hub.llama import table
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from scripts.torch_reference import arrays_of, convert, decoder_logits, torch_decoder

pytestmark = pytest.mark.parity

CONFIG = DecoderConfig(
    vocab_size=60, width=48, layers=3, heads=6, kv_heads=2, mlp_width=80, rope_theta=1000.0, norm_eps=1e-6
)
TABLE = table(CONFIG)
LENGTH = 9


def batch(padding: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 9, 5 and 2 real tokens."""
    lengths_B = np.array([9, 5, 2])
    mask_BxT = np.arange(LENGTH) < lengths_B[:, None]
    if padding == "left":
        mask_BxT = mask_BxT[:, ::-1].copy()
    ids_BxT = np.random.default_rng(7).integers(1, CONFIG.vocab_size, mask_BxT.shape)
    return np.where(mask_BxT, ids_BxT, 0).astype(np.int32), mask_BxT


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_logits(padding, kv_heads):
    config = dataclasses.replace(CONFIG, kv_heads=kv_heads)
    model = torch_decoder(config, seed=8)
    definition = define(lambda rngs: Decoder(config, rngs=rngs))
    params = convert(TABLE, arrays_of(model), definition.abstract())
    ids, mask = batch(padding)

    @jax.jit
    def logits_of(params):
        decoder = definition.bind(params)
        return decoder.logits(decoder(decoder.embed(ids), mask))

    theirs = decoder_logits(model, ids, mask).detach().numpy()
    np.testing.assert_allclose(logits_of(params)[mask], theirs[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_gradients(padding):
    """Of the mean log-likelihood, for the tied embeddings and every other weight."""
    import torch

    model = torch_decoder(CONFIG, seed=9)
    definition = define(lambda rngs: Decoder(CONFIG, rngs=rngs))
    params = convert(TABLE, arrays_of(model), definition.abstract())
    ids, mask = batch(padding)
    # A token counts where it and the one before it are real.
    counted = mask[:, 1:] & mask[:, :-1]

    logits = decoder_logits(model, ids, mask)[:, :-1][torch.from_numpy(counted)]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[:, 1:][counted].astype(np.int64)))
    loss.backward()
    theirs = convert(TABLE, {n: p.grad.numpy() for n, p in model.named_parameters()}, definition.abstract())

    @jax.jit
    @jax.value_and_grad
    def loss_and_grads(params):
        decoder = definition.bind(params)
        logits = decoder.logits(decoder(decoder.embed(ids), mask))[:, :-1]
        return -jnp.sum(token_logprobs(logits, ids[:, 1:], counted)) / float(counted.sum())

    value, ours = loss_and_grads(params)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    wanted = parameter_names(theirs)
    assert np.abs(wanted["embedding.embedding"]).max() > 1e-3
    for name, array in parameter_names(ours).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_picture_before_text():
    """Picture vectors as `inputs_embeds` before the text, as LLaVA has them, give what `score` gives."""
    import torch

    vision = VisionConfig(16, 8, TransformerConfig(width=16, layers=1, heads=2, mlp_width=16))
    definition = define(lambda rngs: VisionLanguagePolicy(PolicyConfig(vision, CONFIG), rngs=rngs))
    model = torch_decoder(CONFIG, seed=10)
    params = definition.init(jax.random.key(0))
    params["decoder"] = convert(TABLE, arrays_of(model), definition.abstract()["decoder"])

    generator = np.random.default_rng(11)
    image = generator.normal(size=(2, 4, CONFIG.width)).astype(np.float32)
    prompt = np.array([[0, 0, 1], [1, 7, 9]], np.int32)
    prompt_mask = np.array([[False, False, True], [True, True, True]])
    ids = generator.integers(3, CONFIG.vocab_size, (2, 4)).astype(np.int32)
    mask = np.array([[True, True, True, True], [True, True, False, False]])
    ours = jax.jit(lambda params: definition.bind(params).score(image, prompt, prompt_mask, ids, mask))(
        params
    )

    text = torch.from_numpy(np.concatenate([prompt, ids[:, :-1]], axis=1).astype(np.int64))
    whole_mask = np.concatenate([np.ones((2, 4), bool), prompt_mask, mask[:, :-1]], axis=1)
    with torch.no_grad():
        embedded = torch.cat([torch.from_numpy(image), model.model.embed_tokens(text)], dim=1)
        theirs = model(
            inputs_embeds=embedded,
            attention_mask=torch.from_numpy(whole_mask.astype(np.int64)),
            position_ids=torch.from_numpy(np.maximum(np.cumsum(whole_mask, axis=1) - 1, 0)),
        ).logits[:, -ids.shape[1] :]
    np.testing.assert_allclose(ours.logits_BxTxV[mask], theirs.numpy()[mask], rtol=1e-5, atol=1e-5)
