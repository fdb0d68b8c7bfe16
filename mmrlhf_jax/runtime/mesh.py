"""The devices of all processes as a mesh."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.mesh_axes import parse_mesh, row_shares
from mmrlhf_jax.processes import count


def make_mesh(text: str) -> Mesh:
    """The mesh that `mesh_axes.parse_mesh` reads, with all its axes, over the first devices there are.

    Raises:
      UserError: it wants more devices than there are, or, with several processes, fewer.
    """
    sizes, devices = parse_mesh(text), jax.devices()
    wanted = math.prod(sizes.values())
    if wanted > len(devices):
        hint = ""
        if devices[0].platform == "cpu":
            hint = f", or pretend: XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        raise UserError(
            f"mesh {text} wants {wanted} devices and there are {len(devices)}: give a smaller one{hint}"
        )
    if count() > 1 and wanted < len(devices):
        raise UserError(
            f"mesh {text} wants {wanted} of the {len(devices)} devices of {count()} processes: give one of "
            f"{len(devices)}, or start fewer processes"
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices[:wanted])


@contextlib.contextmanager
def on_mesh(text: str, *, batch: int | None = None) -> Iterator[None]:
    """Computes on that mesh, see `mmrlhf_jax.sharding`; "": on one device, as if there were no meshes.

    Args:
      batch: rows of a step, which the mesh must divide.

    Raises:
      UserError: see `make_mesh`; the mesh does not divide the batch; several processes without a mesh.
    """
    if not text:
        if count() > 1:
            raise UserError(
                f"{count()} processes would all do the same: give a --mesh over the devices of all, e.g. "
                f"data={len(jax.devices())}"
            )
        yield
        return
    shares = row_shares(text)
    if batch is not None and batch % shares:
        raise UserError(
            f"mesh {text} cuts a batch into {shares} parts, and {batch} rows cannot be: give a --batch that "
            f"{shares} divides"
        )
    with jax.set_mesh(make_mesh(text)):
        yield


def on_own_mesh(run: Callable[..., Any]) -> Callable[..., Any]:
    """A stage's `run` on the mesh that its config names."""

    @functools.wraps(run)
    def on_it(config: Any, *inputs: Any, **named: Any) -> Any:
        with on_mesh(config.mesh, batch=getattr(config, "batch", None)):
            return run(config, *inputs, **named)

    return on_it
