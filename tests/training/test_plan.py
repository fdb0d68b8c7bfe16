"""Plans of PPO's step: what they count, and that a step takes the memory that was planned."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import count_params
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.training.adaptation import bind
from mmrlhf_jax.training.config.plan import PlanConfig
from mmrlhf_jax.training.plan import CHIPS, Plan, cache_bytes, make_plan, make_step, policy_of

pytestmark = pytest.mark.slow

TINY = PlanConfig(
    model="tiny",
    mesh="data=1",
    batch=8,
    prompt_length=4,
    max_length=6,
    frozen_dtype="float32",
    remat=False,
)
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {mesh: make_plan(dataclasses.replace(TINY, mesh=mesh)) for mesh in ("data=1", "data=4", "fsdp=4")}


def test_models_have_the_size_of_their_name():
    sizes = {
        name: count_params(define_policy(policy_of(PlanConfig(model=name))).abstract())
        for name in ("llava-1.5-7b", "llava-1.5-13b")
    }
    # 7,063,427,072 in llava-hf/llava-1.5-7b-hf
    assert sizes["llava-1.5-7b"] == pytest.approx(7.063e9, rel=1e-3)
    assert sizes["llava-1.5-13b"] == pytest.approx(13.35e9, rel=1e-3)


def test_what_is_held_by_hand(plans):
    policy = define_policy(policy_of(TINY)).abstract()
    trained = 4 * sum(count_params(policy[name]) for name in ("decoder", "value_head"))
    one, copied, cut = (plans[mesh].bytes for mesh in ("data=1", "data=4", "fsdp=4"))
    assert one["trained parameters"] == copied["trained parameters"] == trained
    assert cut["trained parameters"] < 0.3 * trained
    assert one["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    assert one["reference"] == 4 * count_params(policy)
    tokens = 16 + 4 + 5  # of the picture, the prompt, the completion but its last
    assert one["key-value cache"] == 2 * 2 * 8 * tokens * 64 * 4 == 4 * copied["key-value cache"]


def test_work_is_shared_and_talked_about(plans):
    one, copied, cut = (plans[mesh] for mesh in ("data=1", "data=4", "fsdp=4"))
    assert one.collectives == ()
    assert one.flops / 4 <= copied.flops < 0.3 * one.flops
    reduced = {each.kind: each.bytes for each in copied.collectives}
    assert reduced["all-reduce"] >= one.bytes["trained parameters"]  # the gradient, at least once
    gathered = {each.kind: each.bytes for each in cut.collectives}
    assert gathered["all-gather"] > reduced.get("all-gather", 0)


def test_seconds_are_arithmetic_memory_and_talk(plans):
    plan, chip = plans["data=4"], CHIPS[0]
    talk = sum(each.bytes for each in plan.collectives)
    want = plan.flops / (0.5 * 197e12) + plan.sampling_bytes / 819e9 + talk / 200e9
    assert plan.seconds(chip, 0.5) == pytest.approx(want)


def test_sampling_reads_the_whole_policy_for_every_token_after_the_first(plans):
    decoder = 4 * count_params(define_policy(policy_of(TINY)).abstract()["decoder"])
    for plan in plans.values():  # what fsdp cuts is gathered before the loop
        assert plan.sampling_bytes == 5 * (decoder + plan.bytes["key-value cache"])
        assert plan.unknown_loops == 1  # none but that loop has rounds that depend on data


def test_products_by_hand(plans):
    rows, tokens, layers, width, vocabulary = 8, 25, 2, 64, 512
    block = 4 * width * width + 3 * width * 128

    def forward(count: int) -> int:  # queries times keys, weights times values
        return 2 * rows * layers * (count * block + 2 * count * count * width)

    head = 2 * rows * width * vocabulary  # for one token
    scored = forward(tokens) + 6 * head
    decoded = 5 * (2 * rows * layers * (block + 2 * tokens * width) + head)
    # policy, reference; forward and twice as much backward; the reward model, with a begin token more
    want = 2 * scored + 3 * scored + forward(tokens + 1) + forward(20) + head + decoded
    assert plans["data=1"].flops == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("adapt", ["full", "lora", "head"])
def test_the_cache_is_that_of_sampling(adapt):
    config = dataclasses.replace(TINY, adapt=adapt, frozen_dtype="bfloat16")
    with on_mesh(config.mesh), jax.numpy_dtype_promotion("standard"):  # as a user's process
        step = make_step(config)
        frozen = step.arguments["frozen"]

        def cached(reference, trained, views):
            policy = bind(define_policy(step.policy), reference, trained, 1.0)
            return policy.prefill(views.policy_NxPxD, *views.prompts, capacity=5)[1].layers

        trained = step.arguments["state"].state.params
        layers = jax.eval_shape(cached, frozen.reference, trained, frozen.views)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(layers))
    assert cache_bytes(config, step.policy) == held


def test_the_command_prints_and_writes_a_plan(root: Path, tmp_path: Path, user_environment: dict[str, str]):
    command = [sys.executable, "scripts/plan.py", "--preset", "smoke", "--critic", "separate"]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *flags], cwd=root, env=user_environment, capture_output=True, text=True, timeout=600
        )

    done = run("--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert set(facts["seconds"]) == {chip.name for chip in CHIPS}
    policy = define_policy(policy_of(TINY)).abstract()
    both = 4 * 2 * sum(count_params(policy[name]) for name in ("decoder", "value_head"))
    assert 0.25 * both < facts["plan"]["bytes"]["trained parameters"] < both  # policy and critic, cut by fsdp
    for words in ("data=2,fsdp=2: one of 4 devices", "optimizer", "all-gather", "TPU v5e", "H100 SXM"):
        assert words in " ".join(done.stdout.split())
    refused = run("--mesh", "data=none")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: mesh 'data=none'") and "Traceback" not in refused.stderr


def test_a_batch_that_the_mesh_cannot_cut():
    with pytest.raises(UserError, match="batch is 9: give a multiple of"):
        dataclasses.replace(TINY, batch=9, mesh="data=2")


# A process of its own, whose memory nothing else has touched.
MEASURE = """
import gc, json, re, sys
from pathlib import Path
import jax, jax.numpy as jnp
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.training.config.plan import PlanConfig
from mmrlhf_jax.training.plan import make_plan, make_step

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def filled(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    make = jax.jit(lambda: jnp.full(leaf.shape, 0.01).astype(leaf.dtype), out_shardings=leaf.sharding)
    return make()

config = PlanConfig(**json.loads(sys.argv[1]))
planned = make_plan(config).total * config.devices
with on_mesh(config.mesh):
    step = make_step(config)
    compiled = step.update.lower(*step.arguments.values()).compile()
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    arguments = [jax.tree.map(lambda x: filled(x) if isinstance(x, jax.ShapeDtypeStruct) else x, value)
                 for value in step.arguments.values()]
    jax.block_until_ready(compiled(*arguments))
print(json.dumps([planned, status("VmHWM") - before]))
"""


@pytest.mark.parametrize("mesh", ["data=1", "data=2,fsdp=2"])
def test_a_step_takes_the_memory_that_was_planned(mesh: str, root: Path, user_environment: dict[str, str]):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process's peak memory")
    config = {
        "model": "tiny", "mesh": mesh, "batch": 256, "prompt_length": 32, "max_length": 64, "remat": False,
    }  # fmt: skip
    environment = user_environment | {
        "XLA_FLAGS": f"{user_environment['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(config)],
        cwd=root, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    planned, measured = json.loads(done.stdout.splitlines()[-1])
    assert planned > 300 * MEBIBYTE  # else what a process takes besides would count
    assert measured == pytest.approx(planned, rel=0.15), (planned / MEBIBYTE, measured / MEBIBYTE)
