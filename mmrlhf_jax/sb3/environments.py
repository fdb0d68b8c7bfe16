"""Environments of any origin in the form that the algorithms take."""

import dataclasses
from typing import Any

from mmrlhf_jax.config import positive_int
from mmrlhf_jax.envs.acrobot import Acrobot
from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.envs.gymnax import Gymnax
from mmrlhf_jax.envs.host import HostVector, make_host_vector, wrap_host
from mmrlhf_jax.envs.protocol import Environment, EnvParams
from mmrlhf_jax.envs.spaces import Leaf, Space
from mmrlhf_jax.errors import UserError

ON_DEVICE: dict[str, Environment] = {"CartPole-v1": CartPole(), "Acrobot-v1": Acrobot()}


@dataclasses.dataclass(frozen=True)
class VecEnv:
    """Copies of an environment on the device; `params` other than the environment's default ones."""

    environment: Environment
    num_envs: int = 1
    params: EnvParams = None

    def __post_init__(self) -> None:
        positive_int("n_envs", self.num_envs, "8")

    @property
    def world(self) -> EnvParams:
        """The params in force."""
        return self.environment.default_params if self.params is None else self.params

    @property
    def observation_space(self) -> Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> Leaf:
        return self.environment.action_space


def make_vec_env(env: Any, n_envs: int = 1) -> VecEnv | HostVector:
    """`n_envs` copies of an environment on the device, or of the one that Gymnasium knows by this name.

    Raises:
      UserError: an environment that cannot be copied, or no environment.
    """
    if isinstance(env, str) and env not in ON_DEVICE:
        positive_int("n_envs", n_envs, "8")
        return make_host_vector(env, n_envs)
    found = as_vec_env(env)
    if isinstance(found, VecEnv):
        return dataclasses.replace(found, num_envs=n_envs)
    raise UserError("one Gymnasium environment cannot be copied: give its name, or a vector environment")


def as_vec_env(env: Any) -> VecEnv | HostVector:
    """Any environment in the form that the algorithms take. Raises UserError for anything else."""
    if isinstance(env, VecEnv | HostVector):
        return env
    if isinstance(env, str):
        return VecEnv(ON_DEVICE[env]) if env in ON_DEVICE else make_host_vector(env)
    if hasattr(env, "step_env"):
        return VecEnv(Gymnax.of(env, env.default_params))
    return VecEnv(env) if hasattr(env, "default_params") else wrap_host(env)
