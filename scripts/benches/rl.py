"""PPO in environments: beside Stable-Baselines3 (SB3), and several seeds beside one after the other."""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benches.peer import Peer
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
    plain = not arguments.no_peers and importlib.util.find_spec("gymnax") is not None
    with contextlib.ExitStack() as stack:
        work = Work(SIZES[arguments.preset], arguments, stack, plain)
        report("rl", work.cases(), arguments, {"peers": work.peers})


class Work:
    """The cases of this bench; peers live as long as `stack`."""

    def __init__(
        self, sizes: Sizes, arguments: argparse.Namespace, stack: contextlib.ExitStack, plain: bool
    ) -> None:
        self.sizes, self.arguments, self.stack = sizes, arguments, stack
        self.plain = plain  # whether gymnax is there, for the hand-written loop
        self.peers: dict[str, dict[str, str]] = {}  # what each is made of

    def cases(self) -> Iterator[Case]:
        """All of them."""
        sizes = self.sizes
        task = Task.of(CartPole(), sizes.cartpole)
        name = f"CartPole PPO, {sizes.cartpole.n_envs} environments"
        theirs = self._sb3("MlpPolicy", sizes.cartpole_envs, sizes.cartpole)
        yield self._iteration(f"{name}, SB3 at the same batch and epochs", task, theirs)
        theirs = self._sb3("MlpPolicy", sizes.cartpole_envs, sizes.cartpole, defaults=True)
        yield self._iteration(f"{name}, SB3 at its defaults", task, theirs, 50.0)
        by_hand = _plain(sizes.cartpole) if self.plain else None
        yield self._iteration(f"{name}, a hand-written loop", task, by_hand, 1.0)
        task = Task.of(Corners(sizes.picture_size), sizes.pictures, sizes.picture_policy)
        theirs = self._sb3("MultiInputPolicy", sizes.pictures.n_envs, sizes.pictures)
        name = f"picture and token PPO, {sizes.pictures.n_envs} environments"
        yield self._iteration(name, task, theirs, 5.0)
        yield self._seeds()

    def _sb3(
        self, policy: str, copies: int, ours: ActorCriticTraining, *, defaults: bool = False
    ) -> Peer | None:
        """SB3's PPO for as many steps as an iteration of ours, with our minibatches and epochs or its own."""
        python = self.arguments.peer_python
        if self.arguments.no_peers or not python.exists():
            return None
        settings = {} if defaults else {"batch_size": ours.batch_size, "n_epochs": ours.n_epochs}
        given = {
            "threads": self.arguments.threads,
            "policy": policy,
            "copies": copies,
            "steps": ours.rollout,
            "picture_size": self.sizes.picture_size,
            "words": [THERE, OPPOSITE, PLEASE],
            "settings": settings,
        }
        peer = self.stack.enter_context(Peer(python, "peer_sb3.py", [json.dumps(given)]))
        self.peers["stable-baselines3"] = peer.versions
        return peer

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
