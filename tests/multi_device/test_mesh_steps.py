"""Every stage's step on every split of the devices: the same numbers, arrays where the rules say."""

import math
import re

import jax
import numpy as np
import pytest

from mmrlhf_jax.mesh_axes import parse_mesh
from mmrlhf_jax.sharding import spec_of
from tests.multi_device.stages import Outcome, run, stages

pytestmark = pytest.mark.slow

# One on each axis alone, two of two, and all three; on 1, 2, 4 and 8 devices.
FEW = ("data=8", "fsdp=8", "data=2,tensor=2", "data=2,fsdp=2,tensor=2")
ALL = [
    f"data={data},fsdp={fsdp},tensor={tensor}"
    for data in (1, 2, 4, 8)
    for fsdp in (1, 2, 4, 8)
    for tensor in (1, 2, 4, 8)
    if data * fsdp * tensor in (1, 2, 4, 8)
]
CASES = [(name, mesh) for name in ("pretrain", "reward", "dpo", "ppo") for mesh in FEW]
CASES += [("sft", mesh) for mesh in ALL]
CASES += [("ppo, copied judges", FEW[-1])]

OUTCOMES: dict[tuple[str, str], Outcome] = {}


def outcome(name: str, mesh: str) -> Outcome:
    """Computed once; "" is one device."""
    if (name, mesh) not in OUTCOMES:
        OUTCOMES[name, mesh] = run(stages()[name], mesh)
    return OUTCOMES[name, mesh]


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_the_numbers_are_those_of_one_device(name: str, mesh: str):
    alone, apart = outcome(name, ""), outcome(name, mesh)
    assert alone.metrics.keys() == apart.metrics.keys()
    for metric, value in alone.metrics.items():
        np.testing.assert_allclose(apart.metrics[metric], value, rtol=1e-5, atol=1e-5, err_msg=metric)
    jax.tree.map_with_path(
        lambda path, want, got: np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(path)),
        alone.state,
        apart.state,
    )


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_every_leaf_lies_where_its_rule_says(name: str, mesh: str):
    sizes = parse_mesh(mesh)

    def check(path, leaf):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = spec_of(path, leaf.shape, sizes)
        wanted = jax.sharding.NamedSharding(leaf.sharding.mesh, spec)
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (path, leaf.sharding.spec, spec)
        cut = sizes["fsdp"] * sizes["tensor"]
        if leaf.ndim >= 2 and min(leaf.shape) > 8 and cut > 1:  # a matrix is copied nowhere
            assert leaf.addressable_shards[0].data.size < leaf.size, path

    state = outcome(name, mesh).state
    jax.tree.map_with_path(check, state)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 2]
    assert moments, "the optimizer's moments are part of the state"


def collectives(text: str) -> dict[str, int]:
    """How many of each kind the compiled program has."""
    kinds = re.findall(
        r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", text
    )
    return {kind: kinds.count(kind) for kind in set(kinds)}


def test_only_cut_programs_talk():
    assert collectives(outcome("sft", "").text) == {}
    assert collectives(outcome("sft", "data=1,fsdp=1,tensor=1").text) == {}
    copied = collectives(outcome("sft", "data=8,fsdp=1,tensor=1").text)
    assert copied["all-reduce"] > 0  # of the gradients
    assert copied.get("all-gather", 0) <= 1 and not copied.get("all-to-all"), copied
    parted = collectives(outcome("sft", "data=1,fsdp=8,tensor=1").text)
    assert parted["all-gather"] > copied.get("all-gather", 0)  # of the parameters, where they are used


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_the_work_is_divided(name: str):
    """On eight devices each does an eighth of the products of matrices, or little more."""
    alone, apart = (
        multiplications(outcome(name, mesh).text) for mesh in ("", "data=8" if name != "sft" else ALL_ROWS)
    )
    assert apart * 6 <= alone, (alone, apart)


def multiplications(text: str) -> int:
    """Of all products of matrices in a program, those in a loop once: outputs times what is summed up."""

    def numbers(dimensions: str) -> list[int]:
        return [int(size) for size in dimensions.split(",") if size]

    shapes = dict(re.findall(r"([\w.\-]+) = \w+\[([\d,]*)\]", text))
    dots = re.findall(
        r"= \w+\[([\d,]*)\]\S* dot\((?:\w+\[\S+ )?%?([\w.\-]+),.*?lhs_contracting_dims=\{([\d,]*)\}", text
    )
    assert dots
    return sum(
        math.prod(numbers(out)) * math.prod(numbers(shapes[left])[i] for i in numbers(summed))
        for out, left, summed in dots
    )


ALL_ROWS = "data=8,fsdp=1,tensor=1"
