"""Where the rules put leaves, and how meshes are written."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.mesh_axes import parse_mesh, row_shares
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.sharding import by_rows, copied, cut, gathered, held, made, settled, shapes, spec_of

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/decoder/blocks/0/query/kernel", (64, 32), (("fsdp",), ("tensor",))),
        ("opt_state/1/mu/decoder/blocks/0/down/kernel", (32, 64), (("tensor",), ("fsdp",))),
        ("params/decoder/embedding/embedding", (1024, 64), (("tensor",), ("fsdp",))),
        ("params/vision/blocks/qkv/kernel", (3, 64, 192), (None, ("fsdp", "tensor"), None)),  # layers first
        ("params/decoder/blocks/0/query/kernel", (63, 32), (None, ("tensor",))),  # what does not divide
        ("params/vision/blocks/qkv/kernel", (12, 36), (("fsdp",), None)),  # or not by all
        ("params/projection", (48, 64), (None, ("fsdp", "tensor"))),  # no rule: the larger one
        ("params/projection", (48, 63), (("fsdp", "tensor"), None)),
        ("params/projection", (7, 63), (None, None)),
        ("params/decoder/blocks/0/query/bias", (32,), (None,)),
        ("params/logit_scale", (), ()),
    ],
)
def test_the_rule_of_a_leaf(path, shape, spec):
    assert spec_of(path, shape, SIZES) == PartitionSpec(*spec)


def test_without_a_mesh_nothing_is_touched():
    tree = {"query": {"kernel": jnp.ones((8, 8))}}
    for function in (settled, gathered, copied, by_rows, shapes):
        assert function(tree) is tree
    program = str(jax.make_jaxpr(lambda tree: by_rows(settled(tree)))(tree))
    assert "sharding_constraint" not in program
    assert made(lambda x: (x, isinstance(x, jax.core.Tracer)), 1.0) == (1.0, False)


def test_what_is_settled_is_never_whole_on_a_device():
    with on_mesh("fsdp=2,tensor=2"):
        kernel = made(lambda: settled({"query": {"kernel": jnp.ones((8, 6))}}))["query"]["kernel"]
        rows = jax.jit(by_rows)(jnp.ones((6, 5)))
        heads = jax.jit(lambda x: cut(x, ("data", "fsdp"), "tensor"))(jnp.ones((4, 2, 3)))
        described = shapes({"query": {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}})
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 3)}
    assert {shard.data.shape for shard in rows.addressable_shards} == {(3, 5)}
    assert {shard.data.shape for shard in heads.addressable_shards} == {(2, 1, 3)}
    assert described["query"]["kernel"].sharding.shard_shape((8, 6)) == (4, 3)


def test_what_is_gathered_is_cut_by_tensor_alone():
    tree = {"query": {"kernel": jnp.ones((8, 6))}, "qkv": {"kernel": jnp.ones((8, 6))}}
    with on_mesh("fsdp=2,tensor=2"):
        whole, cut_up = jax.jit(gathered)(settled(tree)), held(tree, "sharded")
        same = held(tree, "replicated")
    shards = [
        {name: leaf["kernel"].addressable_shards[0].data.shape for name, leaf in laid.items()}
        for laid in (whole, cut_up, same)
    ]
    assert shards[0] == {"query": (8, 3), "qkv": (4, 6)}
    assert shards[1] == {"query": (4, 3), "qkv": (2, 6)}
    assert shards[2] == {"query": (8, 6), "qkv": (8, 6)}


def test_a_mesh_is_read():
    assert parse_mesh("fsdp=2, data=4") == {"data": 4, "fsdp": 2, "tensor": 1}
    assert row_shares("fsdp=2,data=4,tensor=2") == 8 and row_shares("") == 1


@pytest.mark.parametrize(
    "text", ["data", "data=0", "data=-1", "data=2.0", "rows=2", "data=2,,fsdp=2", "data=²"]
)
def test_what_is_no_mesh_is_refused(text):
    with pytest.raises(UserError, match=r"is no AXIS=DEVICES; write e\.g\. data=2,fsdp=4,tensor=1"):
        parse_mesh(text)


def test_meshes_that_cannot_be():
    with pytest.raises(UserError, match="names data twice"):
        parse_mesh("data=2,data=4")
    with (
        pytest.raises(
            UserError, match="wants 16 devices and there are 8: give a smaller one, or pretend: XLA_F"
        ),
        on_mesh("data=16"),
    ):
        pass
    with (
        pytest.raises(UserError, match="cuts a batch into 4 parts, and 6 rows cannot be"),
        on_mesh("data=4", batch=6),
    ):
        pass
