"""Gymnasium's environments (extra `envs`), which run on the host, as vectors that reset themselves."""

from typing import Any, NamedTuple

import numpy as np

from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, Leaf, MultiDiscrete, Space, Tokens
from mmrlhf_jax.errors import UserError

_EXTRA = 'gymnasium is not installed: pip install "mmrlhf-jax[envs]"'


class HostMoment(NamedTuple):
    """One step of B copies, as `vector.Moment`, in numpy arrays."""

    observation: Any
    reward_B: np.ndarray
    terminated_B: np.ndarray
    truncated_B: np.ndarray
    final_observation: Any


class HostVector:
    """A Gymnasium vector environment with this package's spaces and dtypes."""

    def __init__(self, vector: Any):
        """Wraps a `gymnasium.vector.VectorEnv`.

        Raises:
          UserError: its auto-reset is not that of the same step, or a space is not known here.
        """
        mode = getattr(vector.metadata.get("autoreset_mode"), "name", None)
        if mode != "SAME_STEP":
            raise UserError(
                f"the vector environment's auto-reset is {mode}: make it with "
                "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP, or use make_vec_env"
            )
        self.vector = vector
        self.num_envs = int(vector.num_envs)
        self.observation_space = space_from_gymnasium(vector.single_observation_space)
        self.action_space = _leaf(vector.single_action_space)

    def reset(self, seed: int | None = None) -> Any:
        """First observations, (B, ...)."""
        observation, _ = self.vector.reset(seed=seed)
        return _cast(self.observation_space, observation)

    def step(self, action: np.ndarray) -> HostMoment:
        """One action in each copy; a Box's are cut to its bounds, as SB3 does."""
        if isinstance(self.action_space, Box):
            action = np.clip(action, *self.action_space.bounds())
        observation, reward_B, terminated_B, truncated_B, info = self.vector.step(action)
        observation = _cast(self.observation_space, observation)
        final = observation
        done_B = terminated_B | truncated_B
        if done_B.any():
            final = _replace(self.observation_space, observation, info["final_obs"], np.flatnonzero(done_B))
        return HostMoment(observation, np.asarray(reward_B, np.float32), terminated_B, truncated_B, final)

    def close(self) -> None:
        """Ends the environments."""
        self.vector.close()


def make_host_vector(name: str, count: int = 1) -> HostVector:
    """`count` copies of the Gymnasium environment `name`, in this process.

    Raises:
      UserError: gymnasium is not installed, or has no such environment.
    """
    try:
        import gymnasium
        from gymnasium.vector import AutoresetMode
    except ImportError:
        raise UserError(_EXTRA) from None
    try:
        vector = gymnasium.make_vec(
            name,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
    except gymnasium.error.Error as error:
        raise UserError(f"gymnasium cannot make {name!r}: {error}") from None
    return HostVector(vector)


def wrap_host(environment: Any) -> HostVector:
    """A HostVector of a Gymnasium environment, which may be a vector already.

    Raises:
      UserError: it is neither, or one that `HostVector` refuses.
    """
    if hasattr(environment, "single_action_space"):
        return HostVector(environment)
    if not hasattr(environment, "action_space") or not hasattr(environment, "reset"):
        raise UserError(
            f"{environment!r} is no environment: give one of Gymnasium's, gymnax' or this package's"
        )
    try:
        from gymnasium.vector import AutoresetMode, SyncVectorEnv
    except ImportError:
        raise UserError(_EXTRA) from None
    return HostVector(SyncVectorEnv([lambda: environment], autoreset_mode=AutoresetMode.SAME_STEP))


def space_from_gymnasium(space: Any) -> Space:
    """This package's space of the same meaning; one-dimensional Boxes of whole numbers are tokens.

    Raises:
      UserError: there is none.
    """
    if hasattr(space, "spaces") and isinstance(space.spaces, dict):
        return Dict(tuple((name, _leaf(part)) for name, part in space.spaces.items()))
    return _leaf(space)


def _leaf(space: Any) -> Leaf:
    if hasattr(space, "nvec"):
        if np.any(space.start) or space.nvec.ndim != 1:
            raise UserError(f"{space}: only one-dimensional ones that start at 0 are supported")
        return MultiDiscrete(tuple(int(size) for size in space.nvec))
    if hasattr(space, "n"):
        if getattr(space, "start", 0) or space.shape != ():
            raise UserError(f"{space}: only one number that starts at 0 is supported")
        return Discrete(int(space.n))
    if hasattr(space, "low"):
        shape = tuple(space.shape)
        if space.dtype == np.uint8 and len(shape) == 3:
            return Box(shape, 0.0, 255.0, "uint8")
        if np.issubdtype(space.dtype, np.integer) and len(shape) == 1 and space.low.min() >= 0:
            return Tokens(shape[0], int(space.high.max()) + 1)
        return Box(shape, tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel())))
    raise UserError(
        f"{space} is no space that this package knows: use Box, Discrete, MultiDiscrete or a Dict"
    )


def _cast(space: Space, value: Any) -> Any:
    if isinstance(space, Dict):
        return {name: _cast(part, value[name]) for name, part in space.items()}
    return np.asarray(value, space.dtype)


def _replace(space: Space, observation: Any, final_B: Any, rows: np.ndarray) -> Any:
    """`observation` with the last ones of the episodes that ended in `rows`."""
    if isinstance(space, Dict):
        return {
            name: _replace(part, observation[name], {row: final_B[row][name] for row in rows}, rows)
            for name, part in space.items()
        }
    replaced = observation.copy()
    for row in rows:
        replaced[row] = final_B[row]
    return replaced
