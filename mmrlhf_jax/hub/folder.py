"""Saving a network's parameters to a folder, and reading them back with every tensor accounted for.

The format is this package's own: config.json holds one of its dataclasses, the weights have its names. The
formats of others are read and written by the module of each family beside this one.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_jax.config import from_dict
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.config import CONFIG, read_architecture, write_config
from mmrlhf_jax.hub.names import Table, parameter_names, same
from mmrlhf_jax.hub.tensors import WEIGHTS, read_params, write_params
from mmrlhf_jax.modules import Params

ConfigT = TypeVar("ConfigT")


def save_model(folder: str | Path, architecture: Any, params: Params) -> None:
    """Writes `architecture` (a dataclass) as config.json and `params` as model.safetensors.

    The weights come last and under their name only once they are whole.
    """
    write_config(folder, dataclasses.asdict(architecture))
    write_params(folder, _own_names(params), params)


def load_architecture(folder: str | Path, cls: type[ConfigT]) -> ConfigT:
    """The architecture of class `cls` that config.json describes.

    Raises:
      UserError: the file is missing, is not JSON, or belongs to another kind of network.
    """
    file = Path(folder) / CONFIG
    if not file.exists():
        raise UserError(f"{file} is not there: run the stage that trains this model first")
    return read_architecture(folder, functools.partial(from_dict, cls))


def load_params(folder: str | Path, abstract: Params) -> Params:
    """The parameters of model.safetensors in the structure of `abstract`.

    Raises:
      UserError: the file is missing or damaged; a tensor is missing, unknown, or of another shape or dtype; a
        tensor holds NaN or infinity. The message names the first of them.
    """
    params = read_params(folder, _own_names(abstract), abstract)
    wanted = parameter_names(abstract)
    for name, leaf in parameter_names(params).items():
        if leaf.dtype != wanted[name].dtype:
            raise UserError(
                f"{Path(folder) / WEIGHTS}: {name} is {leaf.dtype}, but the architecture wants "
                f"{wanted[name].dtype}"
            )
    return params


def _own_names(params: Params) -> Table:
    return {ours: rule for name in parameter_names(params) for ours, rule in same(name, name).items()}
