"""PPO and A2C as objects that learn, predict, and are saved."""

import contextlib
import dataclasses
import functools
import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.config import positive_int
from mmrlhf_jax.envs.host import HostVector
from mmrlhf_jax.envs.spaces import Space, as_batch
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.actions import as_action, draw_noise
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.runtime.progress import Progress
from mmrlhf_jax.sb3.callbacks import BaseCallback, Callback, TrainingLog, as_callbacks, as_table
from mmrlhf_jax.sb3.environments import VecEnv, as_vec_env
from mmrlhf_jax.training.config.environment import ActorCriticTraining, a2c_training
from mmrlhf_jax.training.environment import Hyper, Policy, Task, annealed, init_learner
from mmrlhf_jax.training.environment_loop import DeviceLoop, HostLoop, Loop
from mmrlhf_jax.training.saved_agent import SavedAgent, load_agent, save_agent


class Algorithm:
    """What PPO and A2C share."""

    defaults: ClassVar[ActorCriticTraining]
    log_interval: ClassVar[int]
    env: VecEnv | HostVector | None
    policy: Policy
    _keys: jax.Array  # of parameters, episodes, updates, predictions

    def __init__(
        self,
        policy: str,
        env: Any,
        *,
        seed: int | None = None,
        verbose: int = 0,
        policy_kwargs: dict[str, Any] | None = None,
        **hyperparameters: Any,
    ):
        """A fresh model.

        Args:
          policy: "MlpPolicy", or "MultiInputPolicy" for observations that are dicts.
          policy_kwargs: SB3's `net_arch` (a list, or a dict with pi and vf) and `activation_fn` ("tanh" or
            "relu"), and all fields of `ActorCriticConfig`, e.g. {"fusion": "gated"}.
          hyperparameters: SB3's, as fields of `ActorCriticTraining`; `learning_rate` and `clip_range` may be
            functions of the share of the training that remains.

        Raises:
          UserError: a name that does not exist, or a value that is no good.
        """
        self.env = as_vec_env(env)
        self._schedules: dict[str, Callable[[float], float]] = {
            name: hyperparameters.pop(name)
            for name in ("learning_rate", "clip_range")
            if callable(hyperparameters.get(name))
        }
        firsts = {name: float(schedule(1.0)) for name, schedule in self._schedules.items()}
        training = _changed(self.defaults, {**hyperparameters, **firsts, "n_envs": self.env.num_envs})
        architecture = _architecture(policy, policy_kwargs or {})
        seed = secrets.randbits(31) if seed is None else seed
        self._build(architecture, training, self.env.observation_space, self.env.action_space, seed)
        self.learner = _init_learner(self.policy, training.structure(), self._keys[0])
        self.verbose = verbose

    def _build(
        self,
        architecture: ActorCriticConfig,
        training: ActorCriticTraining,
        observation_space: Space,
        action_space: Space,
        seed: int,
    ) -> None:
        """All but the parameters and the environment."""
        self.architecture, self.training, self.seed = architecture, training, seed
        self.observation_space, self.action_space = observation_space, action_space
        self.policy = define_actor_critic(observation_space, action_space, architecture)
        self.num_timesteps, self.verbose = 0, 0
        self.metrics: dict[str, float] = {}  # of the last iteration that was logged, by SB3's names
        self._keys = jax.random.split(jax.random.key(seed), 4)
        self._loop: Loop | None = None
        self._predictions = 0

    @property
    def params(self) -> Params:
        """The policy's parameters as they are now."""
        return self.learner.params

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = None,
        *,
        log_interval: int | None = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> Self:
        """Trains until at least so many steps of all copies together are done, in whole rollouts.

        Args:
          callback: one or several; a function gets (locals, globals) after every step, as SB3's.
          log_interval: iterations between two readings of `metrics`, which `verbose=1` prints.
          reset_num_timesteps: count from 0; otherwise `total_timesteps` come on top.
        """
        positive_int("total_timesteps", total_timesteps, "10000")
        callbacks = as_callbacks(callback)
        loop = self._started_loop()
        if reset_num_timesteps:
            self.num_timesteps = 0
        first = self.num_timesteps
        last = first + total_timesteps
        log = TrainingLog(first, log_interval or self.log_interval)
        for each in callbacks:
            each.init_callback(self)
            each._on_training_start()
        with contextlib.ExitStack() as stack:
            bar = None
            if progress_bar:
                bar = stack.enter_context(Progress(last, type(self).__name__, initial=first))
            going = True
            while going and self.num_timesteps < last:
                going = self._iterate(loop, callbacks, log, last)
                if bar is not None:
                    bar.update(
                        self.num_timesteps, {"ep_rew_mean": self.metrics.get("rollout/ep_rew_mean", math.nan)}
                    )
        for each in callbacks:
            each._on_training_end()
        return self

    def _iterate(self, loop: Loop, callbacks: list[BaseCallback], log: TrainingLog, last: int) -> bool:
        """One rollout and the updates on it; whether to go on."""
        on_device = isinstance(loop, DeviceLoop)
        going = True

        def on_step() -> bool:
            nonlocal going
            self.num_timesteps += self.training.rollout if on_device else self.training.n_envs
            going = all([each.on_step() for each in callbacks])
            return going

        for each in callbacks:
            each._on_rollout_start()
        after = self.num_timesteps + self.training.rollout
        done = loop.update(self.learner, self._hyper(max(0.0, 1.0 - after / last)), self._keys[2], on_step)
        if done is None:
            return False
        self.learner, metrics = done
        due = log.add(metrics)
        if due or not going or self.num_timesteps >= last:
            self.metrics = log.read(self.num_timesteps)
            if self.verbose:
                print(as_table(self.metrics), flush=True)
        for each in callbacks:
            each._on_rollout_end()
        return going

    def predict(
        self,
        observation: Any,
        state: None = None,
        episode_start: None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """(action, None) for one observation, or the actions for a batch of them; within a Box's bounds.

        Raises:
          UserError: the observation does not fit the space.
        """
        batch, single = as_batch(self.observation_space, observation)
        key = jax.random.fold_in(self._keys[3], self._predictions)
        self._predictions += 1
        action = np.asarray(_choose(self.policy, self.action_space, self.params, batch, key, deterministic))
        return (action[0] if single else action), None

    def save(self, path: str | Path) -> None:
        """Writes the folder `path`: config.json, and model.safetensors with the optimizer's state."""
        agent = SavedAgent.of(
            self.architecture,
            self.training,
            (self.observation_space, self.action_space),
            num_timesteps=self.num_timesteps,
            seed=self.seed,
        )
        save_agent(path, agent, self.learner)

    @classmethod
    def load(cls, path: str | Path, env: Any = None) -> Self:
        """What `save` wrote; with `env` it can go on learning.

        Raises:
          UserError: no such folder, a damaged one, another algorithm's, or an environment of other spaces.
        """
        agent, learner = load_agent(path)
        if agent.training.algorithm != cls.defaults.algorithm:
            right = agent.training.algorithm.upper()
            raise UserError(f"{path} holds {right}: load it with {right}.load")
        model = cls.__new__(cls)
        model._build(agent.architecture, agent.training, *agent.spaces(), agent.seed)
        model.env, model._schedules = None, {}
        model.learner, model.num_timesteps = learner, agent.num_timesteps
        if env is not None:
            model.set_env(env)
        return model

    def set_env(self, env: Any) -> None:
        """Learn in another environment with the same spaces. Raises UserError for other spaces."""
        found = as_vec_env(env)
        if (found.observation_space, found.action_space) != (self.observation_space, self.action_space):
            raise UserError(
                f"the environment has {found.observation_space} and {found.action_space}, but the model was "
                f"made for {self.observation_space} and {self.action_space}"
            )
        self.training = dataclasses.replace(self.training, n_envs=found.num_envs)
        self.env, self._loop = found, None

    def _hyper(self, remaining: float) -> Hyper:
        rates = {name: np.float32(schedule(remaining)) for name, schedule in self._schedules.items()}
        world = self.env.world if isinstance(self.env, VecEnv) else None
        hyper = Hyper.of_training(self.training, world)._replace(**rates)
        return annealed(hyper, remaining) if self.training.anneal else hyper

    def _started_loop(self) -> Loop:
        if self._loop is None:
            if isinstance(self.env, HostVector):
                self._loop = HostLoop(self.env, self.policy, self.training, self.seed)
            elif isinstance(self.env, VecEnv):
                task = Task(self.env.environment, self.policy, self.training)
                self._loop = DeviceLoop(task, self.learner, self._hyper(1.0), self._keys[1])
            else:
                raise UserError("the model has no environment: load(path, env=...) or set_env(env)")
        return self._loop


class PPO(Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347)."""

    defaults = ActorCriticTraining()
    log_interval = 1


class A2C(Algorithm):
    """Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783), synchronous, with torch's RMSprop."""

    defaults = a2c_training()
    log_interval = 100


_init_learner = jax.jit(init_learner, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _choose(
    policy: Policy, space: Space, params: Params, observation: Any, key: jax.Array, deterministic: bool
) -> jax.Array:
    chosen = policy.bind(params)(observation).distribution
    if deterministic:
        return as_action(space, chosen.mode())
    rows = jax.tree.leaves(observation)[0].shape[0]
    return as_action(space, chosen.sample(draw_noise(space, key, (rows,))))


def _changed(defaults: ActorCriticTraining, changes: dict[str, Any]) -> ActorCriticTraining:
    names = {field.name for field in dataclasses.fields(defaults)} - {"algorithm", "n_envs"}
    unknown = sorted(set(changes) - names - {"n_envs"})
    if unknown:
        raise UserError(f"no hyperparameter {unknown[0]!r}: choose from {', '.join(sorted(names))}")
    return dataclasses.replace(defaults, **changes)


def _architecture(policy: str, policy_kwargs: dict[str, Any]) -> ActorCriticConfig:
    """SB3's `policy_kwargs` and this package's own."""
    changes = dict(policy_kwargs)
    widths = changes.pop("net_arch", None)
    if isinstance(widths, dict):
        changes |= {ours: tuple(widths[theirs]) for ours, theirs in (("actor", "pi"), ("critic", "vf"))}
    elif widths is not None:
        changes |= {"actor": tuple(widths), "critic": tuple(widths)}
    if "activation_fn" in changes:
        function = changes.pop("activation_fn")
        changes["activation"] = getattr(function, "__name__", str(function)).lower()  # torch.nn.Tanh too
    names = {field.name for field in dataclasses.fields(ActorCriticConfig)} - {"kind"}
    unknown = sorted(set(changes) - names)
    if unknown:
        known = ", ".join(["net_arch", "activation_fn", *sorted(names)])
        raise UserError(f"policy_kwargs has {unknown[0]!r}: choose from {known}")
    return ActorCriticConfig(kind=policy, **changes)  # type: ignore[arg-type]
