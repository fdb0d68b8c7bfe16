"""LLaVAs against transformers' torch models: golden/llava_*, made by scripts/make_vlm_goldens.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.hub import llava
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.hub.tensors import read_params, tensor_names
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define, params_of
from mmrlhf_jax.policy import load_vlm
from mmrlhf_jax.policy.sampling import sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.types import Prompts

pytestmark = pytest.mark.medium  # compiles for long

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ["llava_llama_clip", "llava_qwen2_siglip"]


def answers(name: str) -> dict[str, np.ndarray]:
    arrays = safetensors.numpy.load_file(GOLDEN / name / "answers.safetensors")
    return {key.partition(".")[2]: array for key, array in arrays.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_stage_agrees_with_torch(name):
    golden = answers(name)
    ids, mask = golden["ids"], golden["mask"]

    @jax.jit
    def stages(policy):
        image = policy.encode(golden["pixels"])
        x, x_mask = policy.merge(image, ids, mask)
        return {
            "features": policy.look(golden["pixels"]),
            "projected": image,
            "merged": x,
            "logits": policy.decoder.logits(policy.decoder(x, x_mask)),
        }

    for stage, array in stages(load_vlm(GOLDEN / name)).items():
        wanted = golden[stage]
        assert array.shape == wanted.shape and np.abs(wanted).max() > 0.05
        kept = mask if stage == "logits" else np.ones(array.shape[:2], bool)
        np.testing.assert_allclose(array[kept], wanted[kept], rtol=1e-5, atol=1e-5, err_msg=stage)


@pytest.mark.parametrize(("name", "remat"), [(VARIANTS[0], False), (VARIANTS[0], True), (VARIANTS[1], False)])
def test_gradients_agree_with_torch(name, remat):
    """Of tower, projector and decoder at once; blocks above the layer that is read get none."""
    golden = answers(name)
    ids, mask = golden["ids"], golden["mask"]
    counted = mask[:, 1:] & mask[:, :-1]
    config = (policy := load_vlm(GOLDEN / name, remat=remat)).config
    definition = define(lambda rngs: VisionLanguagePolicy(config, rngs=rngs))

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(params):
        policy = definition.bind(params)
        x, x_mask = policy.merge(policy.encode(golden["pixels"]), ids, mask)
        logits = policy.decoder.logits(policy.decoder(x, x_mask))[:, :-1]
        return -jnp.sum(token_logprobs(logits, ids[:, 1:], counted)) / float(counted.sum())

    loss, gradients = loss_and_gradients(params_of(policy))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    folder = GOLDEN / name / "gradients"
    wanted = parameter_names(
        read_params(
            folder,
            llava.table(config, tensor_names(folder)),
            definition.abstract(),
            ignore=llava.ignored(config),
        )
    )
    still = set()
    for key, gradient in parameter_names(gradients).items():
        np.testing.assert_allclose(gradient, wanted[key], rtol=1e-4, atol=1e-5, err_msg=key)
        if not np.any(gradient):
            still.add(".".join(key.split(".")[:4]))
    above = {"value_head.bias", "value_head.kernel", "vision.post_norm.bias", "vision.post_norm.scale"}
    last = "vision.transformer.blocks.2"  # above the layer -2
    assert {name for name in still if not name.startswith("vision.gather")} == above | (
        {last} if config.feature_layer == -2 else set()
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens_are_those_of_generate(name):
    """From left-padded prompts of different lengths, through the cache."""
    golden = answers(name)
    policy, wanted = load_vlm(GOLDEN / name), golden["greedy"]

    @jax.jit
    def write(policy):
        return sample_completions(
            policy,
            policy.encode(golden["pixels"]),
            Prompts(golden["ids"], golden["mask"]),
            jax.random.key(0),
            length=wanted.shape[1],
            forbidden_V=jnp.zeros(policy.config.decoder.vocab_size, bool),
            temperature=0.0,
            end_id=-1,
        )

    np.testing.assert_array_equal(write(policy).ids_BxT, wanted)
    assert len(np.unique(wanted)) > 1
