"""The report's curves: metrics over steps or over the distance to the SFT policy, a line for each seed.

Of policies that were trained together a line is the mean over the seeds, with its interval, and every value
of a swept rate has a line of its own.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.config import from_dict
from mmrlhf_jax.evaluate.report import Plot, Series
from mmrlhf_jax.evaluate.student import mean_interval
from mmrlhf_jax.runtime.folder import read_config, read_result
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.config import EvaluateConfig
from mmrlhf_jax.training.config.sweep import SweepConfig

# stage, metric, title
CURVES = (
    ("pretrain", "clip/loss", "CLIP: contrastive loss"),
    ("pretrain", "language_model/loss", "Language model: loss in nats a token"),
    ("sft", "loss", "SFT: loss in nats a token"),
    ("sft", "combinations/loss", "SFT: loss on held-out combinations"),
    ("sft", "held_out/loss", "SFT: loss on held-out pictures"),
    ("reward", "loss", "Reward model: Bradley-Terry loss"),
    ("reward", "rewards/accuracies", "Reward model: accuracy on training pairs"),
    ("ppo", "objective/scores", "PPO: composite reward"),
    ("ppo", "objective/kl", "PPO: KL to the SFT policy, nats a caption"),
    ("ppo", "rewards/preference/mean", "PPO: learned reward"),
    ("ppo", "rewards/image_accuracy/mean", "PPO: CLIPScore"),
    ("ppo", "rewards/fluency/mean", "PPO: log-likelihood under the language model"),
    ("ppo", "policy/entropy_avg", "PPO: entropy, nats a token"),
)

WATCHED = {"proxy": "the reward", "gold": "gold rubric (simulated)"}


def curves(config: EvaluateConfig) -> list[Plot]:
    """Training curves of all seeds; a metric that a run does not have is left out."""
    plots = [
        Plot(title.replace("PPO", config.policy.upper()), "step", "", lines(config, stage, "step", metric))
        for stage, metric, title in CURVES
    ]
    return [plot for plot in plots if plot.series]


def reward_against_kl(config: EvaluateConfig) -> Plot:
    """The composite reward over the square root of the KL: what the distance from SFT buys."""
    series = [_over_distance(line) for line in lines(config, "ppo", "objective/kl", "objective/scores")]
    return Plot("Reward against distance", "sqrt(KL to the SFT policy)", "composite reward", series)


def gold_against_kl(config: EvaluateConfig) -> Plot | None:
    """Reward and gold rubric of held-out captions over the square root of the KL; None without a watch.

    Where the one climbs and the other falls, the reward is overoptimised (Gao et al. 2023, arXiv:2210.10760,
    figure 1).
    """
    series = []
    for name, label in WATCHED.items():
        for line in lines(config, "ppo", "eval/kl", f"eval/{name}_gain"):
            series.append(_over_distance(dataclasses.replace(line, label=f"{label}, {line.label}")))
    if not series:
        return None
    title = "Overoptimisation: the reward and what it stands for, held-out combinations"
    return Plot(title, "sqrt(KL to the SFT policy)", "gain in standard deviations over pictures", series)


def alarm_notes(config: EvaluateConfig) -> list[str]:
    """A sentence for every alarm that the watch over the policy's training rang."""
    notes = []
    for seed in config.seeds:
        rung = read_result(dataclasses.replace(config, seed=seed).folder("ppo")).get("alarms") or []
        for member, alarms in enumerate(rung):
            whose = f"seed {seed}" if len(rung) == 1 else f"seed {seed}, member {member}"
            notes += [f"Alarm in training ({whose}): {name} at step {at}." for name, at in alarms.items()]
    return notes


def lines(config: EvaluateConfig, stage: str, x: str, y: str) -> list[Series]:
    """Metric `y` over metric `x`, for each seed that has both: one line, or one for each swept setting."""
    series = []
    for seed in config.seeds:
        folder = dataclasses.replace(config, seed=seed).folder(stage)
        groups = member_groups(folder)
        if not groups:
            rows = _rows_with(folder, x, y)
            if rows:
                series.append(Series(f"seed {seed}", [row[x] for row in rows], [row[y] for row in rows]))
        for setting, folders in groups:
            line = _mean_line(f"seed {seed}{setting}", [_rows_with(path, x, y) for path in folders], x, y)
            series += [] if line is None else [line]
    return series


def member_groups(folder: Path) -> list[tuple[str, list[Path]]]:
    """The folders of the members of each setting of a sweep, with what the setting is called.

    Without a sweep all members are of one setting without a name.
    """
    folders = sorted(folder.glob("members/*"), key=lambda path: int(path.name))
    if not folders:
        return []
    started = (folder / "config.yaml").exists()
    sweep = from_dict(SweepConfig, read_config(folder).get("sweep", {}) if started else {})
    settings = sweep.settings
    each = len(folders) // len(settings)
    names = ["".join(f", {name} {value:g}" for name, value in setting.items()) for setting in settings]
    return [(name, folders[i * each : (i + 1) * each]) for i, name in enumerate(names)]


def _mean_line(label: str, members: list[list[dict[str, Any]]], x: str, y: str) -> Series | None:
    """The mean over members, and its interval; nothing where they have no step in common."""
    by_step = [{row["step"]: row for row in rows} for rows in members]
    steps = sorted(set.intersection(*(set(rows) for rows in by_step)))
    if not steps:
        return None
    x_MxS, y_MxS = (np.array([[rows[step][name] for step in steps] for rows in by_step]) for name in (x, y))
    if len(members) == 1:
        return Series(label, x_MxS[0], y_MxS[0])
    mean = f"{label}, mean of {len(members)} and 95 % interval"
    return Series(mean, x_MxS.mean(axis=0), y_MxS.mean(axis=0), *mean_interval(y_MxS))


def _over_distance(line: Series) -> Series:
    """The line over the square root of its x, from the least to the greatest."""
    distance = np.sqrt(np.maximum(line.x, 0.0))
    order = np.argsort(distance, kind="stable")
    low, high = (None if edge is None else np.asarray(edge)[order] for edge in (line.low, line.high))
    return Series(line.label, distance[order], np.asarray(line.y)[order], low, high)


def _rows_with(folder: Path, x: str, y: str) -> list[dict[str, Any]]:
    """The records of a run's metrics that have both `x` and `y`."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [row for row in rows if row.get(x) is not None and row.get(y) is not None]
