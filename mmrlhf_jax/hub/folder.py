"""Saving a network's parameters to a folder, and reading them back with every tensor accounted for."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import safetensors
import safetensors.numpy

from mmrlhf_jax.architecture import from_dict
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import Params

ConfigT = TypeVar("ConfigT")

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


def parameter_names(params: Params) -> dict[str, Any]:
    """The leaves of a nested dict by dotted name, e.g. "vision.transformer.blocks.0.qkv.kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save_model(folder: str | Path, architecture: Any, params: Params) -> None:
    """Writes `architecture` (a dataclass) as config.json and `params` as model.safetensors.

    The weights come last and under their name only once they are whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(architecture), indent=2)
    (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in parameter_names(params).items()}
    temporary = folder / f".{_WEIGHTS}.tmp"
    safetensors.numpy.save_file(arrays, temporary)
    os.replace(temporary, folder / _WEIGHTS)


def load_architecture(folder: str | Path, cls: type[ConfigT]) -> ConfigT:
    """The architecture of class `cls` that config.json describes.

    Raises:
      UserError: the file is missing, is not JSON, or belongs to another kind of network.
    """
    file = Path(folder) / _CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is not there: run the stage that trains this model first") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): restore it or train the model again") from None
    try:
        return from_dict(cls, values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def load_params(folder: str | Path, abstract: Params) -> Params:
    """The parameters of model.safetensors in the structure of `abstract`.

    Raises:
      UserError: the file is missing or damaged; a tensor is missing, unknown, or of another shape or dtype; a
        tensor holds NaN or infinity. The message names the first of them.
    """
    file = Path(folder) / _WEIGHTS
    try:
        arrays = safetensors.numpy.load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file} is not there: run the stage that trains this model first") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): train the model again or copy it anew") from None
    wanted = parameter_names(abstract)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        what = "lacks" if name in wanted else "has an unknown"
        raise UserError(f"{file} {what} tensor {name}: it belongs to another architecture")
    for name, shape in wanted.items():
        array = arrays[name]
        if array.shape != shape.shape or array.dtype != shape.dtype:
            raise UserError(
                f"{file}: {name} is {array.dtype}{list(array.shape)}, but the architecture wants "
                f"{shape.dtype}{list(shape.shape)}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{file}: {name} holds NaN or infinity; go back to an earlier checkpoint")
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return jax.tree.unflatten(tree, [jax.numpy.asarray(arrays[name]) for name in names])
