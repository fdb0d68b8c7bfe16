"""PPO in environments: beside Stable-Baselines3 (SB3), and several seeds beside one after the other."""

import argparse
import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import jax
import numpy as np

from benches.side_by_side import Case, report
from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.envs.corners import OPPOSITE, PLEASE, THERE, Corners
from mmrlhf_jax.training.config.environment import ActorCriticTraining
from mmrlhf_jax.training.environment import Hyper, Task, init_state, train, update_step


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured, and how much of it at once."""

    cartpole: ActorCriticTraining
    cartpole_envs: int  # of the peer, which does not gain from more
    pictures: ActorCriticTraining
    picture_size: int
    picture_policy: ActorCriticConfig
    seeds: int
    updates: int  # of each seed


# SB3's network for such a dict: NatureCNN to 256 numbers, the rest beside them, two networks of 64 and 64.
# Ours has the same, and a text tower, which adds about a tenth of the FLOPs.
_PICTURES = ActorCriticConfig("MultiInputPolicy", fusion="concat_linear")
SIZES = {
    "full": Sizes(
        ActorCriticTraining(n_envs=64, n_steps=128, batch_size=2048, n_epochs=4, learning_rate=2.5e-4),
        8,
        ActorCriticTraining(n_envs=8, n_steps=64, batch_size=64, n_epochs=4),
        36,
        _PICTURES,
        8,
        10,
    ),
    "smoke": Sizes(
        ActorCriticTraining(n_envs=4, n_steps=16, batch_size=32, n_epochs=1),
        2,
        ActorCriticTraining(n_envs=2, n_steps=8, batch_size=16, n_epochs=1),
        36,
        dataclasses.replace(_PICTURES, picture_width=8, fusion_width=8),
        2,
        1,
    ),
}


def run(arguments: argparse.Namespace) -> None:
    """Measures everything, prints the table and writes the file."""
    peer = not arguments.no_peers and importlib.util.find_spec("stable_baselines3") is not None
    if peer:
        import torch

        torch.set_num_threads(arguments.threads)
    names = ("stable-baselines3", "gymnasium") if peer else ()
    plain = not arguments.no_peers and importlib.util.find_spec("gymnax") is not None
    cases = Work(SIZES[arguments.preset], peer, plain).cases()
    report("rl", cases, arguments, {"peers": {name: metadata.version(name) for name in names}})


@dataclasses.dataclass(frozen=True)
class Work:
    """The cases of this bench."""

    sizes: Sizes
    peer: bool  # whether Stable-Baselines3 is there
    plain: bool  # whether gymnax is, for the hand-written loop

    def cases(self) -> Iterator[Case]:
        """All of them."""
        sizes = self.sizes
        theirs: Callable[[], Any] | None = None
        if self.peer:
            import gymnasium

            make = functools.partial(gymnasium.make, "CartPole-v1")
            theirs = _sb3("MlpPolicy", make, sizes.cartpole_envs, sizes.cartpole)
        task = Task.of(CartPole(), sizes.cartpole)
        name = f"CartPole PPO, {sizes.cartpole.n_envs} environments"
        yield self._iteration(f"{name}, SB3 at the same batch and epochs", task, theirs)
        if self.peer:
            theirs = _sb3("MlpPolicy", make, sizes.cartpole_envs, sizes.cartpole, defaults=True)
        yield self._iteration(f"{name}, SB3 at its defaults", task, theirs, 50.0)
        by_hand = _plain(sizes.cartpole) if self.plain else None
        yield self._iteration(f"{name}, a hand-written loop", task, by_hand, 1.0)
        task = Task.of(Corners(sizes.picture_size), sizes.pictures, sizes.picture_policy)
        if self.peer:
            make = functools.partial(gymnasium_corners, sizes.picture_size)
            theirs = _sb3("MultiInputPolicy", make, sizes.pictures.n_envs, sizes.pictures)
        name = f"picture and token PPO, {sizes.pictures.n_envs} environments"
        yield self._iteration(name, task, theirs, 5.0)
        yield self._seeds()

    def _iteration(
        self, name: str, task: Task, theirs: Callable[[], Any] | None, goal: float | None = None
    ) -> Case:
        """One PPO iteration of ours; as many steps of the peer."""
        hyper, key = Hyper.of(task), jax.random.key(0)
        step = jax.jit(functools.partial(update_step, task))
        state = init_state(task, key, hyper.world)

        def ours() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(step(state, hyper, key))

        return Case(name, "steps", task.training.rollout, ours, theirs, goal=goal)

    def _seeds(self) -> Case:
        """All seeds in one program; instead of a peer, the same seeds one after the other."""
        sizes = self.sizes
        task = Task.of(CartPole(), sizes.cartpole)
        hyper, keys_K = Hyper.of(task), jax.random.split(jax.random.key(0), sizes.seeds)
        one = jax.jit(functools.partial(train, task, updates=sizes.updates))
        together = jax.jit(jax.vmap(one, in_axes=(0, None)))
        return Case(
            f"CartPole PPO, {sizes.seeds} seeds in one program, beside one by one",
            "steps",
            sizes.seeds * sizes.updates * sizes.cartpole.rollout,
            lambda: jax.block_until_ready(together(keys_K, hyper)),
            lambda: [jax.block_until_ready(one(key, hyper)) for key in keys_K],
            goal=1.0,
        )


def _plain(training: ActorCriticTraining) -> Callable[[], Any]:
    """An iteration of the loop in `benches.plain_ppo`."""
    from benches.plain_ppo import make_iteration

    state, iteration = make_iteration(training)

    def theirs() -> None:
        nonlocal state
        state = jax.block_until_ready(iteration(state))

    return theirs


def _sb3(
    policy: str,
    make: Callable[[], Any],
    count: int,
    ours: ActorCriticTraining,
    *,
    defaults: bool = False,
) -> Callable[[], Any]:
    """SB3's PPO for as many steps as an iteration of ours, with its minibatches and epochs or SB3's own."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    model = stable_baselines3.PPO(
        policy,
        make_vec_env(make, count),
        n_steps=ours.rollout // count,
        device="cpu",
        **({} if defaults else {"batch_size": ours.batch_size, "n_epochs": ours.n_epochs}),
    )
    return lambda: model.learn(ours.rollout, reset_num_timesteps=False)


def gymnasium_corners(size: int) -> Any:
    """`Corners` as a Gymnasium environment in numpy, for the peer; its words are a MultiDiscrete."""
    import gymnasium
    from gymnasium import spaces

    class HostCorners(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "text": spaces.MultiDiscrete([4, 4]),
                "switch": spaces.Box(-1.0, 1.0, (1,), np.float32),
            }
        )
        action_space = spaces.Discrete(4)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed=seed)
            self.time = 0
            return self._pose(), {}

        def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
            reward = float(action == self.target)
            self.time += 1
            return self._pose(), reward, self.time >= 8, False, {}

        def _pose(self) -> dict[str, np.ndarray]:
            lit, colour, opposite, polite, switched = self.np_random.integers([4, 3, 2, 2, 2])
            image = np.zeros((size, size, 3), np.uint8)
            half = size // 2
            rows = slice(half, None) if lit >= 2 else slice(half)
            columns = slice(half, None) if lit % 2 else slice(half)
            image[rows, columns] = np.where(np.arange(3) != colour, 255, 0)
            self.target = lit ^ (3 * opposite) ^ switched
            return {
                "image": image,
                "text": np.array([OPPOSITE if opposite else THERE, PLEASE * polite]),
                "switch": np.array([-1.0 if switched else 1.0], np.float32),
            }

    return HostCorners()
