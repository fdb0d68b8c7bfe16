"""Classic control: what five seeds have learned after as many steps as Stable-Baselines3 (SB3)."""

import argparse
import dataclasses
import importlib.util
import json
from importlib import metadata
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmrlhf_jax.files import write_text
from mmrlhf_jax.runtime.platform import device_name, git_revision, versions
from mmrlhf_jax.training.config.control import PRESETS, ControlConfig
from mmrlhf_jax.training.control import learn_seeds

GOALS = {"cartpole-ppo": 475.0, "cartpole-a2c": 475.0, "acrobot-ppo": -100.0, "acrobot-a2c": -100.0}
SMOKE = {"total_timesteps": 4_096, "seeds": 1, "episodes": 2}


@dataclasses.dataclass(frozen=True)
class Row:
    """Mean return of the greedy episodes after training, of each seed."""

    name: str
    steps: int
    goal: float
    ours: list[float]
    theirs: list[float]


def run(arguments: argparse.Namespace) -> None:
    """Trains every preset on both sides, prints the table and writes the file."""
    peer = not arguments.no_peers and importlib.util.find_spec("stable_baselines3") is not None
    if peer:
        import torch

        torch.set_num_threads(arguments.threads)
    rows = []
    for name, goal in GOALS.items():
        config = PRESETS[name]
        if arguments.preset == "smoke":
            config = dataclasses.replace(config, **SMOKE)  # type: ignore[arg-type]
        seeds = range(config.seeds)
        ours = learn_seeds(config, seeds).returns_KxE.mean(axis=1).tolist()
        theirs = [sb3_return(config, seed) for seed in seeds[: arguments.peer_seeds]] if peer else []
        rows.append(Row(name, config.updates * config.training.rollout, goal, ours, theirs))
        print(f"{name}: {np.mean(ours):.1f}" + (f", SB3 {np.mean(theirs):.1f}" if peer else ""), flush=True)
    table = Table(title=f"mean greedy return after training ({device_name()})")
    for column in ("preset", "steps of each seed", "this package", "SB3", "goal"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for row in rows:
        table.add_row(row.name, f"{row.steps:,}", _told(row.ours), _told(row.theirs), f"{row.goal:.0f}")
    Console(width=110).print(table)
    if arguments.json is not None:
        found: dict[str, Any] = versions()
        found["stable-baselines3"] = metadata.version("stable-baselines3") if peer else None
        content = {
            "title": "learning",
            "machine": device_name(),
            "preset": arguments.preset,
            "revision": git_revision(),
            "versions": found,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_text(arguments.json, json.dumps(content, indent=2) + "\n")
    short = [row.name for row in rows if np.mean(row.ours) < row.goal]
    if arguments.check and short:
        print(f"short of the goal: {', '.join(short)}")
        raise SystemExit(1)


def _told(returns: list[float]) -> str:
    return f"{np.mean(returns):.1f} ({min(returns):.0f} to {max(returns):.0f})" if returns else ""


def sb3_return(config: ControlConfig, seed: int) -> float:
    """Mean greedy return of SB3's agent after the same steps with the same settings."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    ours = config.training

    def rate(value: float) -> Any:
        return (lambda remaining: value * remaining) if ours.anneal else value

    settings: dict[str, Any] = {
        name: getattr(ours, name)
        for name in ("n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")
    }
    settings |= {"learning_rate": rate(ours.learning_rate), "normalize_advantage": ours.normalize_advantage}
    if ours.algorithm == "ppo":
        algorithm = stable_baselines3.PPO
        settings |= {"batch_size": ours.batch_size or ours.rollout, "n_epochs": ours.n_epochs}
        settings |= {"clip_range": rate(ours.clip_range), "clip_range_vf": ours.clip_range_vf}
    else:
        algorithm = stable_baselines3.A2C
        settings["use_rms_prop"] = ours.use_rms_prop
    copies = make_vec_env(config.environment, n_envs=ours.n_envs, seed=seed)
    model = algorithm("MlpPolicy", copies, seed=seed, device="cpu", **settings)
    model.learn(config.updates * ours.rollout)
    fresh = make_vec_env(config.environment, n_envs=10, seed=1_000 + seed)
    return float(evaluate_policy(model, fresh, n_eval_episodes=config.episodes, deterministic=True)[0])
