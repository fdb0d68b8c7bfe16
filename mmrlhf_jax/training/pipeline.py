"""All stages of a run, one after the other."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training import collect, contrastive, evaluate, policy, reward, supervised
from mmrlhf_jax.training.presets import Stages
from mmrlhf_jax.training.report import print_results

_RUN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "pretrain": contrastive.run,
    "sft": supervised.run,
    "collect": collect.run,
    "reward": reward.run,
    "ppo": policy.run,
    "evaluate": evaluate.run,
}


def run(stages: Stages, seeds: Sequence[int]) -> None:
    """Runs every stage for every seed, then the evaluation of all seeds together.

    Stages that are done are skipped, an interrupted one goes on. In a dry run the stages describe
    themselves; one whose inputs are not there yet says so.
    """
    for seed in seeds:
        for name, config in stages.shared(seed=seed, resume=True).items():
            if name != "evaluate":
                start(name, config, _RUN[name])
    together = dataclasses.replace(stages.evaluate, seeds=tuple(seeds), resume=True)
    summary = start("evaluate", together, _RUN["evaluate"])
    if summary:
        print_results(summary, stages.evaluate.run)


def start(name: str, config: Any, run: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Runs one stage and says so; in a dry run one that cannot be described yet says that."""
    if not config.dry_run:
        state = "done before, skipped" if (config.folder(name) / "result.json").exists() else "running"
        together = isinstance(getattr(config, "seeds", None), tuple)
        print(f"[{name}] {'all seeds' if together else f'seed {config.seed}'}: {state}", flush=True)
        return run(config)
    try:
        return run(config)
    except UserError as error:
        print(f"{name}: cannot be described yet: {error}")
        return {}
