"""While tokens are sampled, parameters are not fetched from other devices again and again."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from mmrlhf_jax.policy import sampling
from mmrlhf_jax.policy.sampling import begin_prompts, sample_completions
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.sharding import settled
from tests.tiny_networks import LENGTH, NETWORKS

pytestmark = pytest.mark.medium

ROWS = 8
GATHERS = re.compile(r"= \(?f32\[([\d,]+)\]\S* all-gather(?:-start)?\(")
PARAMETER = 64  # numbers at least in one that is gathered; what a token's rows exchange is less


def write(params, image_BxPxD):
    return sample_completions(
        NETWORKS.policy.bind(params),
        image_BxPxD,
        begin_prompts(ROWS),
        jax.random.key(1),
        length=LENGTH,
        forbidden_V=jnp.asarray(NETWORKS.forbidden),
        temperature=1.0,
    )


def sampled(mesh: str):
    """The tokens, and the text of the program."""
    image_BxPxD = jax.random.normal(jax.random.key(2), (ROWS, 4, 16))
    with on_mesh(mesh):
        params = settled(NETWORKS.policy.init(jax.random.key(0)))
        program = jax.jit(lambda *inputs: write(*inputs)).lower(params, image_BxPxD).compile()
        return jax.device_get(program(params, image_BxPxD)), program.as_text()


def gathers_parameters(text: str) -> bool:
    sizes = [math.prod(map(int, dimensions.split(","))) for dimensions in GATHERS.findall(text)]
    return any(size >= PARAMETER for size in sizes)


def in_loops(text: str) -> str:
    """The computations that a loop of the program runs in every round."""
    blocks = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    todo, seen = re.findall(r"body=%?([\w.\-]+)", text), set()
    assert todo, "sampling is a loop"
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += re.findall(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)", blocks[name])
    return "\n".join(blocks[name] for name in seen)


@pytest.mark.parametrize("mesh", ["fsdp=8", "data=2,fsdp=2,tensor=2"])
def test_parameters_are_gathered_before_the_loop(mesh: str):
    completions, text = sampled(mesh)
    assert gathers_parameters(text) and not gathers_parameters(in_loops(text))
    alone, _ = sampled("")
    assert (completions.ids_BxT == alone.ids_BxT).all() and alone.mask_BxT.sum() > ROWS


def test_else_they_would_be_gathered_for_every_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "gathered", lambda tree: tree)
    assert gathers_parameters(in_loops(sampled("fsdp=8")[1]))
