"""The closed loop: the policy writes, raters judge, a reward model learns from it, PPO makes a new policy.

People keep their links from round to round: a page that is open waits while the models train, and goes on by
itself when the next round's items are there.
"""

import dataclasses
from pathlib import Path
from typing import Any

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.export import export
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.training import policy_stage, reward
from mmrlhf_jax.training.annotate import judge, prepare
from mmrlhf_jax.training.config import AnnotateConfig
from mmrlhf_jax.training.presets import PRESETS

# What the reward model learns from, by the kind of item; by default the preferences.
JUDGED = {"rate": "ratings.parquet", "list": "clicks.parquet"}


def run_rounds(config: AnnotateConfig) -> list[dict[str, Any]]:
    """Rounds 1 to `config.rounds`, each in RUN/rounds/NUMBER with stages of its own.

    Started again, what is done is kept: judgements, stages, whole rounds. Round 1 starts from the run's SFT
    policy; every later one from the policy that the round before left, which is then also the reference.

    Returns:
      For each round what was judged, and the results of its reward and PPO stages.
    """
    results = []
    before, last_policy = config.policy, "sft"
    earlier: Path | None = None
    for number in range(1, config.rounds + 1):
        folder = config.policy / "rounds" / str(number)
        _link(before, last_policy, folder, config.seed)
        here = dataclasses.replace(config, policy=folder, store=None, stages=("sft",), rounds=0)
        with Store(here.store_path()) as store:
            if earlier is not None:
                with Store(earlier) as other:
                    store.inherit(other)
            judge(here, store, prepare(here, store), once=True)
            counts = export(store, folder / "judged")
        stages = PRESETS[config.preset].shared(run=folder, seed=config.seed, resume=True)
        judged = folder / "judged" / JUDGED.get(config.kind, "preferences.parquet")
        learned = reward.run(dataclasses.replace(stages.reward, preferences=judged))
        reinforced = policy_stage.run(stages.ppo)
        results.append({"judged": counts, "reward": learned, "ppo": reinforced})
        print(f"round {number}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
        before, last_policy, earlier = folder, "ppo", here.store_path()
    return results


def _link(before: Path, stage: str, folder: Path, seed: int) -> None:
    """Gives `folder` the pretrained networks of `before`, and its policy as the one to start from."""
    here, there = folder / f"seed_{seed}", (before / f"seed_{seed}").resolve()
    links = {here / "pretrain": there / "pretrain", here / "sft" / "model": there / stage / "model"}
    for link, target in links.items():
        if not target.is_dir():
            raise UserError(f"{target} is not there: run experiments/pipeline.py with --run {before} first")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)
