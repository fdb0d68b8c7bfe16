"""Decoders against transformers' torch models: golden/<variant>, made by scripts/make_decoder_goldens.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.language import load_decoder
from mmrlhf_jax.language.decoder import Decoder, positions_of
from mmrlhf_jax.language.rope import rotation
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define, params_of

pytestmark = pytest.mark.medium  # compiles for long

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ["llama_tied", "llama_untied_llama3", "llama_linear", "qwen2", "qwen2_yarn", "mistral"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_hidden_vector_and_the_logits(variant):
    golden = safetensors.numpy.load_file(GOLDEN / variant / "answers.safetensors")
    ids, mask = golden["ids"], golden["mask"]
    decoder = load_decoder(GOLDEN / variant)

    @jax.jit
    def answer(decoder):
        batch, time = ids.shape
        turn = rotation(positions_of(mask), decoder.config)
        visible = jnp.tril(jnp.ones((time, time), bool))[None] & mask[:, None, :]
        x = decoder.embed(ids)
        hidden = [x]
        x = x.reshape(batch * time, -1)
        for block in decoder.blocks:
            x, _, _ = block(x, turn, visible[:, None])
            hidden.append(x.reshape(batch, time, -1))
        hidden[-1] = decoder(decoder.embed(ids), mask)
        return hidden, decoder.logits(hidden[-1])

    hidden, logits = answer(decoder)
    np.testing.assert_allclose(logits[mask], golden["logits"][mask], rtol=1e-5, atol=1e-5)
    for i, vectors in enumerate(hidden):
        wanted = golden[f"hidden.{i}"]
        np.testing.assert_allclose(vectors[mask], wanted[mask], rtol=1e-5, atol=1e-5, err_msg=f"hidden {i}")
    assert f"hidden.{len(hidden)}" not in golden


@pytest.mark.parametrize(("variant", "remat"), [*((name, False) for name in VARIANTS), ("qwen2_yarn", True)])
def test_gradients(variant, remat):
    """Of the mean cross-entropy, for every weight under transformers' name."""
    golden = safetensors.numpy.load_file(GOLDEN / variant / "answers.safetensors")
    ids, mask = golden["ids"], golden["mask"]
    counted = mask[:, 1:] & mask[:, :-1]
    decoder = load_decoder(GOLDEN / variant, remat=remat)
    definition = define(lambda rngs: Decoder(decoder.config, rngs=rngs))

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(params):
        decoder = definition.bind(params)
        logits = decoder.logits(decoder(decoder.embed(ids), mask))[:, :-1]
        return -jnp.sum(token_logprobs(logits, ids[:, 1:], counted)) / float(counted.sum())

    loss, gradients = loss_and_gradients(params_of(decoder))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    table, ours = llama.table(decoder.config), parameter_names(gradients)
    compared = set()
    for name, rule in table.items():
        for source, array in zip(rule.sources, rule.split(np.asarray(ours[name])), strict=True):
            wanted = golden[f"gradient.{source}"]
            np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-5, err_msg=source)
            compared.add(f"gradient.{source}")
    assert compared == {name for name in golden if name.startswith("gradient.")}
