"""Safetensors: what is written comes back, every tensor is accounted for, and memory stays small."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.names import linear, norm, patch_kernel, same, side_by_side
from mmrlhf_jax.hub.tensors import read_params, write_params

TABLE = {
    **linear("layer", "model.fc"),
    **norm("norm", "model.ln", bias=False),
    **side_by_side("qkv", ("model.q", "model.k", "model.v")),
    **patch_kernel("patch", "model.conv.weight", 2, 3),
    **same("scale", "logit_scale"),
}
SHAPES = {
    "layer": {"kernel": (6, 4), "bias": (4,)},
    "norm": {"scale": (6,)},
    "qkv": {"kernel": (6, 12), "bias": (12,)},
    "patch": (12, 6),
    "scale": (),
}
ABSTRACT = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)


def torch_arrays(dtype=np.float32) -> dict[str, np.ndarray]:
    """As torch lays them out: (out, in) matrices, (out, channels, height, width) kernels."""
    generator = np.random.default_rng(0)
    shapes = {"model.fc.weight": (4, 6), "model.fc.bias": (4,), "model.ln.weight": (6,), "logit_scale": ()}
    shapes |= {f"model.{letter}.weight": (4, 6) for letter in "qkv"}
    shapes |= {f"model.{letter}.bias": (4,) for letter in "qkv"} | {"model.conv.weight": (6, 3, 2, 2)}
    return {name: np.asarray(generator.normal(size=shape), dtype) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    safetensors.numpy.save_file(torch_arrays(), tmp_path / "model.safetensors")
    return tmp_path


def shard(folder: Path, max_bytes: int = 300) -> None:
    """The same weights again, in several files."""
    write_params(folder, TABLE, read_params(folder, TABLE, ABSTRACT), max_shard_bytes=max_bytes)


def refused(folder: Path, *words: str, **options) -> None:
    with pytest.raises(UserError) as error:
        read_params(folder, TABLE, ABSTRACT, **options)
    assert len(str(error.value).splitlines()) <= 2
    for word in (str(folder), *words):
        assert word in str(error.value)


def test_layers_compute_what_torchs_would(folder: Path):
    """y = x W^T + b; a convolution of stride 2 is a linear layer over its patches."""
    arrays, params = torch_arrays(), read_params(folder, TABLE, ABSTRACT)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(
        x @ params["layer"]["kernel"] + params["layer"]["bias"][None],
        x @ arrays["model.fc.weight"].T + arrays["model.fc.bias"],
        rtol=1e-5,
    )
    wanted = [x @ arrays[f"model.{letter}.weight"].T + arrays[f"model.{letter}.bias"] for letter in "qkv"]
    joined = x @ params["qkv"]["kernel"] + params["qkv"]["bias"][None]
    np.testing.assert_allclose(np.split(joined, 3, axis=1), wanted, rtol=1e-5, atol=1e-6)
    picture_HxWxC = np.random.default_rng(2).normal(size=(2, 2, 3)).astype(np.float32)
    convolved = np.einsum("hwc,dchw->d", picture_HxWxC, arrays["model.conv.weight"])
    np.testing.assert_allclose(picture_HxWxC.reshape(-1) @ params["patch"], convolved, rtol=1e-4)


def test_written_as_it_was_read(folder: Path, tmp_path: Path):
    write_params(tmp_path / "again", TABLE, read_params(folder, TABLE, ABSTRACT))
    again = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == torch_arrays().keys()
    for name, array in torch_arrays().items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    with safetensors.safe_open(tmp_path / "again" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers looks for it


def test_shards_and_their_index(folder: Path):
    before = read_params(folder, TABLE, ABSTRACT)
    shard(folder)
    files = sorted(path.name for path in folder.iterdir())
    count = len(files) - 1
    assert count > 2 and "model.safetensors" not in files
    assert files == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] + [
        "model.safetensors.index.json"
    ]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in torch_arrays().values())
    for file in files[:-1]:
        names = safetensors.numpy.load_file(folder / file).keys()
        assert names == {name for name, place in index["weight_map"].items() if place == file}
    jax.tree.map(np.testing.assert_array_equal, read_params(folder, TABLE, ABSTRACT), before)


@pytest.mark.parametrize("max_bytes", [300, 500, 10_000])
def test_other_weights_in_the_folder_are_replaced(folder: Path, max_bytes):
    shard(folder, 400)
    new = jax.tree.map(jnp.ones_like, read_params(folder, TABLE, ABSTRACT))
    write_params(folder, TABLE, new, max_shard_bytes=max_bytes)
    jax.tree.map(np.testing.assert_array_equal, read_params(folder, TABLE, ABSTRACT), new)
    parts = {path.name.split("-of-")[-1] for path in folder.glob("model-*")}
    assert len(parts) == (0 if max_bytes == 10_000 else 1)
    assert (folder / "model.safetensors").exists() == (max_bytes == 10_000)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_on_request(folder: Path, dtype):
    params = read_params(folder, TABLE, ABSTRACT, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    wanted = torch_arrays()["model.fc.weight"].T.astype(dtype)
    np.testing.assert_array_equal(np.asarray(params["layer"]["kernel"]), wanted)


def test_dtype_of_the_file_without_request(tmp_path: Path):
    safetensors.numpy.save_file(torch_arrays(jnp.bfloat16), tmp_path / "model.safetensors")
    params = read_params(tmp_path, TABLE, ABSTRACT)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(
        np.asarray(params["norm"]["scale"]), torch_arrays(jnp.bfloat16)["model.ln.weight"]
    )


def test_straight_into_a_sharding(folder: Path):
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec(None, "model"), PartitionSpec()))

    def rule(name: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        return split if name.endswith("kernel") else whole

    plain, params = (read_params(folder, TABLE, ABSTRACT, sharding=s) for s in (None, rule))
    assert params["layer"]["kernel"].sharding == split and params["patch"].sharding == whole
    assert {s.data.shape for s in params["qkv"]["kernel"].addressable_shards} == {(6, 3)}
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    tree = {
        "layer": whole,
        "norm": whole,
        "qkv": {"kernel": split, "bias": whole},
        "patch": whole,
        "scale": whole,
    }
    upper = read_params(folder, TABLE, ABSTRACT, sharding=tree)
    assert upper["layer"]["kernel"].sharding == whole and upper["qkv"]["kernel"].sharding == split


def test_tensors_that_nobody_wants_are_named_or_ignored(folder: Path):
    extra = {"model.0.position_ids": np.arange(3), "model.1.position_ids": np.arange(3)}
    safetensors.numpy.save_file(torch_arrays() | extra, folder / "model.safetensors")
    refused(folder, "unknown", "model.0.position_ids")
    refused(folder, "unknown", "model.1.position_ids", ignore=("model.0.position_ids",))
    read_params(folder, TABLE, ABSTRACT, ignore=("*.position_ids",))


def test_faults_are_named_as_the_checkpoint_names_them(folder: Path):
    def rewrite(**changes) -> None:
        arrays = torch_arrays() | {name.replace("__", "."): array for name, array in changes.items()}
        kept = {name: array for name, array in arrays.items() if array is not None}
        safetensors.numpy.save_file(kept, folder / "model.safetensors")

    rewrite(model__k__weight=None)
    refused(folder, "lacks", "model.k.weight")
    rewrite(model__conv__weight=np.zeros((6, 3, 2, 1), np.float32))
    refused(folder, "model.conv.weight", "[6, 3, 2, 1]", "[6, 3, 2, 2]")
    rewrite(model__fc__weight=np.zeros((6, 4), np.float32))
    refused(folder, "model.fc.weight", "[6, 4]", "[4, 6]")
    rewrite(model__v__bias=np.array([0, np.nan, 0, 0], jnp.bfloat16))
    refused(folder, "model.v.bias", "NaN")
    rewrite(model__v__bias=np.zeros(4, np.complex64))
    refused(folder, "model.v.bias", "C64")


def test_faults_of_sharded_checkpoints(folder: Path):
    shard(folder)
    second = folder / "model-00002-of-00004.safetensors"
    data = second.read_bytes()
    second.write_bytes(data[:-1])
    refused(folder, second.name, "damaged")
    second.unlink()
    refused(folder, second.name, "not there")
    second.write_bytes(data)
    index = folder / "model.safetensors.index.json"
    for text in ("{", "[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        refused(folder, index.name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_not_opened(tmp_path: Path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    refused(tmp_path, name, "pickle", "save_pretrained", "safe_serialization=True")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x80\x02\x8a\nl\xfc\x9c" + bytes(100), "pickle"),
        (b"PK\x03\x04" + bytes(100), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>" + bytes(100), "damaged"),
    ],
)
def test_other_files_under_the_name_of_safetensors(tmp_path: Path, data, word):
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path, "model.safetensors", word)


def test_an_empty_folder(tmp_path: Path):
    refused(tmp_path, "model.safetensors is not there")
    refused(tmp_path / "nowhere", "not there")


MEMORY = """
import sys, threading, time
import jax, jax.numpy as jnp, psutil
from mmrlhf_jax.hub.names import linear, same
from mmrlhf_jax.hub.tensors import read_params

layers, width = 16, 2048
table = same("z_embedding", "model.embed.weight")
abstract = {"z_embedding": jax.ShapeDtypeStruct((8 * width, width), jnp.float32)}
for i in range(layers):
    table |= linear(f"layer{i}", f"model.{i}", bias=False)
    abstract[f"layer{i}"] = {"kernel": jax.ShapeDtypeStruct((width, width), jnp.float32)}
jax.block_until_ready(jnp.ones(3) + 1)
process, peak, done = psutil.Process(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.001)

before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
params = read_params(sys.argv[1], table, abstract)
done = True
watcher.join()
print((peak - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
def test_memory_stays_under_1_3_times_the_checkpoint(tmp_path: Path, user_environment: dict[str, str]):
    """400 MB, a third of them in one tensor, in a process of its own, watched from a thread."""
    generator = np.random.default_rng(0)
    arrays = {f"model.{i}.weight": generator.random((2048, 2048), np.float32) for i in range(16)}
    arrays["model.embed.weight"] = generator.random((8 * 2048, 2048), np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=user_environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.9 < float(done.stdout) < 1.3
