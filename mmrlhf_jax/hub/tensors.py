"""Weights in safetensors files, one or several with an index, as Hugging Face lays them out.

Reading streams: a few parameters' tensors are read, joined and put on their devices before the next ones. The
files are not mapped into memory, where every page that was touched would count as well.
"""

import fnmatch
import json
import math
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.hub.names import Rule, Table, parameter_names
from mmrlhf_jax.modules import ModuleT, Params, define
from mmrlhf_jax.processes import is_first
from mmrlhf_jax.sharding import on_host, place_of, put

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000

Shardings = Any  # function of (name, leaf), or a sharding for every leaf: a pytree, or its upper part

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONVERT = (
    "convert it where torch is installed: transformers.AutoModel.from_pretrained(folder)"
    ".save_pretrained(new_folder, safe_serialization=True)"
)
_READERS = 2  # tensors that are in the host's memory at a time
_CHUNK = 1 << 20  # numbers looked at together, so that looking needs no memory to speak of


class Tensor(NamedTuple):
    """A tensor that lies in a file, and how to read it."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def read_params(
    folder: str | Path,
    table: Table,
    abstract: Params,
    *,
    dtype: Any = None,
    sharding: Shardings | None = None,
    ignore: Sequence[str] = (),
) -> Params:
    """The parameters of a folder's safetensors in the structure of `abstract`.

    Args:
      folder: holds model.safetensors, or model.safetensors.index.json and the files that it names.
      table: how each leaf of `abstract` is made of the checkpoint's tensors.
      abstract: the shapes wanted, as `Definition.abstract` gives them.
      dtype: of all floating-point parameters; None keeps each as the file has it.
      sharding: where each leaf goes: a function of its dotted name and shape, or a pytree of shardings with
        the structure (or an upper part of the structure) of `abstract`; None: the default device.
      ignore: names, or patterns with *, of tensors in the files that are not wanted.

    Raises:
      UserError: no weights, only pickled ones, or damaged ones; a tensor is missing, unknown, of another
        shape, or holds NaN or infinity. The message names the first of them.
    """
    tensors = _find_tensors(Path(folder))
    file = Path(folder) / (WEIGHTS if (Path(folder) / WEIGHTS).exists() else INDEX)
    return assemble(tensors, table, abstract, file=file, dtype=dtype, sharding=sharding, ignore=ignore)


def load_module(
    folder: str | Path,
    build: Callable[[nnx.Rngs], ModuleT],
    table: Table,
    *,
    dtype: Any = None,
    sharding: Shardings | None = None,
    ignore: Sequence[str] = (),
) -> ModuleT:
    """The module that `build(rngs)` makes, with the parameters of a folder; the rest as of `read_params`."""
    definition = define(build)
    abstract = definition.abstract()
    return definition.bind(
        read_params(folder, table, abstract, dtype=dtype, sharding=sharding, ignore=ignore)
    )


def assemble(
    tensors: dict[str, Tensor],
    table: Table,
    abstract: Params,
    *,
    file: Path,
    dtype: Any = None,
    sharding: Shardings | None = None,
    ignore: Sequence[str] = (),
) -> Params:
    """What `read_params` does, from tensors that lie anywhere; `file` is named where one is missing."""
    wanted = parameter_names(abstract)
    if wanted.keys() != table.keys():
        raise ValueError(f"names on one side only: {sorted(wanted.keys() ^ table.keys())}")
    _account(file, tensors, table, wanted, ignore)
    place = _placement(sharding, abstract)

    def load(name: str) -> jax.Array:
        array = table[name].join(*(_read(source, tensors[source]) for source in table[name].sources))
        if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(dtype, copy=False)
        # Waiting keeps the host's copies from piling up while they travel to a device.
        return jax.block_until_ready(put(array, place[name]))

    # The largest first: the second copy that a leaf needs for a moment comes before the others are there.
    order = sorted(wanted, key=lambda name: -wanted[name].size)
    with ThreadPoolExecutor(_READERS) as readers:  # file, check and copy all run outside of Python's lock
        leaves = dict(zip(order, readers.map(load, order), strict=True))
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in wanted])


def tensor_names(folder: str | Path) -> set[str]:
    """The names in a folder's safetensors, from their headers. Raises UserError as `read_params` does."""
    return set(_find_tensors(Path(folder)))


def write_params(
    folder: str | Path, table: Table, params: Params, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes `params` under the checkpoint's names: model.safetensors, or numbered files and their index.

    Weights that lay in the folder are replaced, whole: a reader meets the old ones, none, or the new ones.

    Args:
      max_shard_bytes: size at which the next file begins; at most this much is copied to the host at once.
    """
    folder = Path(folder)
    leaves = parameter_names(params)
    if leaves.keys() != table.keys():
        raise ValueError(f"names on one side only: {sorted(leaves.keys() ^ table.keys())}")
    shards = _shards(leaves, max_shard_bytes)
    weight_map: dict[str, str] = {}
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
    for file, names in shards.items():
        arrays: dict[str, np.ndarray] = {}
        for name in names:
            parts = table[name].split(on_host(leaves[name]))  # several processes all have a part in it
            arrays |= {s: np.asarray(p, order="C") for s, p in zip(table[name].sources, parts, strict=True)}
        if is_first():
            safetensors.numpy.save_file(arrays, folder / f".{file}.tmp", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(arrays, file)
    if not is_first():
        return
    (folder / INDEX).unlink(missing_ok=True)  # before the files that it names change
    for file in shards:
        os.replace(folder / f".{file}.tmp", folder / file)
    if len(shards) > 1:
        total = sum(leaf.nbytes for leaf in leaves.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    for path in [folder / WEIGHTS, *folder.glob("model-*-of-*.safetensors")]:
        if path.name not in shards:
            path.unlink(missing_ok=True)


def _shards(leaves: dict[str, Any], max_bytes: int) -> dict[str, list[str]]:
    """Names of the parameters that go to each file."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, leaf in leaves.items():
        if groups[-1] and size + leaf.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += leaf.nbytes
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name.

    Raises:
      UserError: the file is missing, damaged or of another kind.
    """
    try:
        with safetensors.safe_open(file, "numpy"):  # checks that the header is sound
            pass
    except FileNotFoundError:
        raise UserError(f"{file} is not there: give the folder of a saved or downloaded model") from None
    except safetensors.SafetensorError as error:
        raise UserError(_why_unreadable(file, error)) from None
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                f"{file}: {name} is of type {entry['dtype']}, which is not supported: cast it first"
            )
    return {name: _tensor(file, entry, 8 + length) for name, entry in header.items()}


def _find_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of all files of a folder by name, from their headers.

    Raises:
      UserError: there are none, only pickled ones, or a file is missing or damaged.
    """
    if (folder / WEIGHTS).exists():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return _indexed(folder)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} has only {pickles[0]}, a pickle, which can run code when it is read: {_CONVERT}"
        )
    raise UserError(f"{folder / WEIGHTS} is not there: give the folder of a saved or downloaded model")


def _indexed(folder: Path) -> dict[str, Tensor]:
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
        inside = all(Path(file).name == file for file in files)
    except (ValueError, KeyError, TypeError, AttributeError):
        inside = False
    if not inside:
        raise UserError(f"{folder / INDEX} is no index of safetensors files: download the model again")
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (folder / file).exists():
            raise UserError(f"{folder / file} is not there, but {INDEX} names it: download the model again")
        tensors |= read_header(folder / file)
    return tensors


def _tensor(file: Path, entry: dict[str, Any], start: int) -> Tensor:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    offset = start + entry["data_offsets"][0]
    return Tensor(
        file, shape, lambda: np.fromfile(file, dtype, math.prod(shape), offset=offset).reshape(shape)
    )


def _why_unreadable(file: Path, error: Exception) -> str:
    with open(file, "rb") as stream:
        start = stream.read(16)
    if start.startswith((b"\x80", b"PK\x03\x04")):
        return f"{file} is a pickle, which can run code when it is read, under another name: {_CONVERT}"
    if start.startswith(b"version https://"):
        return f"{file} is a pointer to a large file, not the file: run git lfs pull"
    return f"{file} is damaged ({error}): copy or download it anew"


def _account(
    file: Path, tensors: dict[str, Tensor], table: Table, wanted: dict[str, Any], ignore: Sequence[str]
) -> None:
    """Every tensor has its place and every place its tensor, of the right shape."""
    sources = {source for rule in table.values() for source in rule.sources}
    for source in sorted(sources - tensors.keys()):
        raise UserError(f"{file} lacks tensor {source}: it belongs to another architecture")
    for name in sorted(tensors.keys() - sources):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            raise UserError(
                f"{tensors[name].file} has an unknown tensor {name}: it belongs to another architecture"
            )
    for name, leaf in wanted.items():
        for source, shape in zip(table[name].sources, _shapes(table[name], leaf.shape), strict=True):
            if tensors[source].shape != shape:
                raise UserError(
                    f"{tensors[source].file}: {source} is {list(tensors[source].shape)}, but the "
                    f"architecture wants {list(shape)}"
                )


def _shapes(rule: Rule, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the tensors that a parameter of `shape` splits into; the array takes no memory."""
    return [part.shape for part in rule.split(np.broadcast_to(np.zeros((), np.int8), shape))]


def _read(name: str, tensor: Tensor) -> np.ndarray:
    array = tensor.read()
    if jnp.issubdtype(array.dtype, jnp.floating):
        flat_N = array.reshape(-1)
        for start in range(0, flat_N.size, _CHUNK):
            if not np.isfinite(flat_N[start : start + _CHUNK]).all():
                raise UserError(
                    f"{tensor.file}: {name} holds NaN or infinity; "
                    "go back to an earlier checkpoint or download it anew"
                )
    return array


def _placement(sharding: Shardings | None, abstract: Params) -> dict[str, Any]:
    """The sharding of each leaf by name."""
    leaves = parameter_names(abstract)
    if sharding is None:
        return {name: place_of(name.replace(".", "/"), leaf.shape) for name, leaf in leaves.items()}
    if callable(sharding):
        return {name: sharding(name, leaf) for name, leaf in leaves.items()}
    return parameter_names(jax.tree.broadcast(sharding, abstract))
