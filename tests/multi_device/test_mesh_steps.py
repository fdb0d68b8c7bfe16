"""Every stage's step on every split of the devices: the same numbers, arrays where the rules say."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest

from mmrlhf_jax.mesh_axes import parse_mesh
from mmrlhf_jax.runtime.hlo import read_work
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
ALL_ROWS = "data=8,fsdp=1,tensor=1"
CASES = [(name, mesh) for name in ("pretrain", "reward", "dpo", "ppo") for mesh in FEW]
CASES += [("sft", mesh) for mesh in ALL]
CASES += [("ppo, copied judges", FEW[-1])]


@pytest.fixture(scope="module")
def outcome() -> Callable[[str, str], Outcome]:
    """(stage, mesh) → what came of it, computed once; "" is one device."""
    return functools.cache(lambda name, mesh: run(stages()[name], mesh))


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_the_numbers_are_those_of_one_device(outcome, name: str, mesh: str):
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
def test_every_leaf_lies_where_its_rule_says(outcome, name: str, mesh: str):
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
    """How often a device talks in the compiled program, by kind."""
    return {each.kind: each.times for each in read_work(text).collectives}


def test_only_cut_programs_talk(outcome):
    assert collectives(outcome("sft", "").text) == {}
    assert collectives(outcome("sft", "data=1,fsdp=1,tensor=1").text) == {}
    copied = collectives(outcome("sft", "data=8,fsdp=1,tensor=1").text)
    assert copied["all-reduce"] > 0  # of the gradients
    assert copied.get("all-gather", 0) <= 1 and not copied.get("all-to-all"), copied
    parted = collectives(outcome("sft", "data=1,fsdp=8,tensor=1").text)
    assert parted["all-gather"] > copied.get("all-gather", 0)  # of the parameters, where they are used


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_the_work_is_divided(outcome, name: str):
    """On eight devices each does an eighth of the products of matrices, or little more."""
    meshes = ("", ALL_ROWS if name == "sft" else "data=8")
    alone, apart = (read_work(outcome(name, mesh).text).flops for mesh in meshes)
    assert apart * 6 <= alone, (alone, apart)
