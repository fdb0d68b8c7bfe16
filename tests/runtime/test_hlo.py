"""What is read from compiled programs, against programs whose work is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from mmrlhf_jax.runtime.hlo import Collective, read_work


def work(function, *shapes, **options):
    compiled = (
        jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    )
    return read_work(compiled.as_text(), **options)


def test_a_product_of_matrices():
    assert work(lambda a, b: a @ b, (48, 32), (32, 64)) == (2 * 48 * 32 * 64, (), 0)
    batched = work(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (5, 48, 32), (5, 32, 64))
    assert batched.flops == 5 * 2 * 48 * 32 * 64


def test_a_loop_counts_as_often_as_it_runs():
    def loop(a):
        return jax.lax.scan(lambda a, _: (jnp.tanh(a @ a), None), a, None, length=7)[0]

    assert work(loop, (64, 64)).flops == 7 * 2 * 64**3
    nested = work(lambda a: jax.lax.scan(lambda a, _: (loop(a), None), a, None, length=3)[0], (64, 64))
    assert nested.flops == 21 * 2 * 64**3 and nested.unknown_loops == 0


def test_a_loop_that_depends_on_data_counts_as_told():
    def until(a):
        return jax.lax.while_loop(lambda a: a[0, 0] < 5, lambda a: jnp.tanh(a @ a), a)

    assert work(until, (64, 64), unknown_trips=11).flops == 11 * 2 * 64**3
    assert work(until, (64, 64)).unknown_loops == 1


def test_branches_count_each():
    def choose(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a, lambda a: jnp.tanh(a @ a @ a), a)

    assert work(choose, (64, 64)).flops == 3 * 2 * 64**3


@pytest.mark.parametrize("rounds", [1, 5])
def test_talk_between_devices(rounds):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))

    def talk(a):
        def once(a, _):
            gathered = jax.lax.all_gather(a, "x", tiled=True)  # (64, 32) on every device
            return jax.lax.psum_scatter(jnp.sin(gathered), "x", tiled=True), None

        a = jax.lax.scan(once, a, None, length=rounds)[0]
        return jax.lax.psum(jnp.sum(a, axis=0), "x")

    spread = jax.shard_map(talk, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec())
    found = {one.kind: one for one in work(spread, (64, 32)).collectives}
    assert found["all-gather"] == Collective("all-gather", rounds, rounds * 64 * 32 * 4)
    assert found["reduce-scatter"] == Collective("reduce-scatter", rounds, rounds * 16 * 32 * 4)
    assert found["all-reduce"] == Collective("all-reduce", 1, 32 * 4)
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.parametrize(
    ("start", "kind", "size"),
    [
        # operands and results of two arrays gathered in one go
        (
            "((f32[8,4]{1,0}, bf16[2]{0}), (f32[32,4]{1,0}, bf16[8]{0})) all-gather-start(%p, %q)",
            "all-gather",
            32 * 4 * 4 + 8 * 2,
        ),
        ("(f32[8,4]{1,0}, bf16[2]{0}) all-reduce-start(%p, %q)", "all-reduce", 8 * 4 * 4 + 2 * 2),
        # two numbers for its own end come last
        (
            "(f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%p)",
            "collective-permute",
            8 * 4 * 4,
        ),
    ],
)
def test_starts_of_every_form_count_for_their_results(start, kind, size):
    text = f"""HloModule m

ENTRY %main (p: f32[8,4], q: bf16[2]) -> f32[8,4] {{
  %p = f32[8,4]{{1,0}} parameter(0)
  %q = bf16[2]{{0}} parameter(1)
  ROOT %start = {start}, channel_id=1
}}
"""
    assert read_work(text).collectives == (Collective(kind, 1, size),)


def test_what_is_called_asynchronously_is_called_once():
    text = """HloModule m

%inner (p: f32[8,4]) -> f32[2,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %rs = f32[2,4]{1,0} reduce-scatter(%p), dimensions={0}
}

ENTRY %main (p: f32[8,4]) -> f32[2,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %start = ((f32[8,4]{1,0}), f32[2,4]{1,0}) async-start(%p), calls=%inner
  %update = ((f32[8,4]{1,0}), f32[2,4]{1,0}) async-update(%start), calls=%inner
  ROOT %done = f32[2,4]{1,0} async-done(%update), calls=%inner
}
"""
    assert read_work(text).collectives == (Collective("reduce-scatter", 1, 2 * 4 * 4),)


def test_an_asynchronous_start_counts_once_and_for_its_result():
    text = """HloModule m

ENTRY %main (p: f32[8,4]) -> f32[32,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %start = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%p), dimensions={0}
  ROOT %done = f32[32,4]{1,0} all-gather-done(%start)
}
"""
    assert read_work(text).collectives == (Collective("all-gather", 1, 32 * 4 * 4),)
