"""The assistant's page: how often it does as told, what it needs for that, curves, and films."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.envs.rooms_language import decode
from mmrlhf_jax.evaluate.report import facts_html, plots_html, write_page
from mmrlhf_jax.evaluate.report_film import FilmStrip, films_html
from mmrlhf_jax.evaluate.report_plots import Plot, Series, plot_html
from mmrlhf_jax.evaluate.report_text import NO_VALUE, number
from mmrlhf_jax.evaluate.tables import Cell, Table, table_html
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.assistant.config import AssistantConfig
from mmrlhf_jax.training.assistant.episodes import Film
from mmrlhf_jax.training.assistant.evaluation import PLAYERS

SPLITS = {
    "train": "instructions as in training",
    "combinations": "held-out combinations of colour and kind",
    "pairs": "held-out pairs of things",
}
CURVES = {
    "rollout/ep_rew_mean": "Return of an episode, as it is optimised",
    "rollout/ep_len_mean": "Steps of an episode",
    "train/entropy_loss": "Minus the entropy of the actions, nats",
    "train/explained_variance": "Explained variance of the values",
    "rewards/accuracies": "Learned reward: agrees with what the rater said",
    "held_out/accuracies": "Learned reward: agrees with the true return, held out",
}


def write_page_of(
    config: AssistantConfig,
    folder: Path,
    result: Mapping[str, Any],
    films: Mapping[Any, Film],
    facts: Mapping[str, Any],
) -> None:
    """RUN/report.html, from the result, the metrics in `folder`, and films of the first seed."""
    versions = [(name, str(value)) for name, value in facts["versions"].items()]
    told = [
        ("Device", facts["device"]),
        ("Command", facts["command"]),
        ("Seeds", str(config.seeds)),
        ("Steps of each seed", f"{result['timesteps']:,}"),
        ("Wall time", f"{result['wall_seconds']:.0f} s"),
        *([("Comparisons of each seed", f"{result['comparisons']:,}")] if "comparisons" in result else []),
    ]
    reward = "the rooms' reward" if config.reward == "true" else "a reward learned from comparisons"
    sections = [
        ("Does it do as told?", "".join(map(table_html, success_tables(result)))),
        ("Training", plots_html([plot_html(plot) for plot in curves(config, folder)])),
        *((f"Films: {SPLITS[split]}", films_html(strips(film))) for split, film in films.items()),
        ("How it was run", facts_html([*told, *versions])),
        ("Notes", "".join(f"<p>{note}</p>" for note in _notes(config))),
    ]
    title = f"Assistant in the rooms, level {config.level}"
    write_page(
        config.run / "report.html",
        title,
        f"{config.algorithm.upper()} on {reward}, fusion {config.fusion}",
        sections,
    )


def success_tables(result: Mapping[str, Any]) -> list[Table]:
    """One for each split; rows are `PLAYERS`."""
    tables = []
    for split, players in result["success"].items():
        rows = []
        for name, what in PLAYERS.items():
            found = players[name]
            low, high = found["ci95"]
            each = ", ".join(f"{share:.3f}" for share in found["of_each"])
            detour = NO_VALUE if found["detour"] is None else number(found["detour"])
            cells = [
                f"{found['success']:.1%}",
                f"[{low:.3f}, {high:.3f}]",
                each,
                number(found["steps"]),
                detour,
            ]
            rows.append([Cell(what), *map(Cell, cells)])
        header = ["Who", "Done as told", "95 % interval", "Each seed", "Steps", "Steps over the oracle's"]
        note = f"{SPLITS[split].capitalize()}. Steps are those of episodes done as told."
        tables.append(Table(split, note, header, rows))
    return tables


def curves(config: AssistantConfig, folder: Path) -> list[Plot]:
    """Success by split in one plot, and the other metrics that were written."""
    rows = read_metrics(folder / "metrics.jsonl")

    def line(label: str, name: str) -> Series | None:
        known = [
            (row["step"] * config.training.rollout, row[name]) for row in rows if row.get(name) is not None
        ]
        return Series(label, *np.array(known).T) if known else None

    success = [line(what, f"success/{split}") for split, what in SPLITS.items()]
    plots = [Plot("Done as told, likeliest actions", "steps", "", [one for one in success if one])]
    for name, title in CURVES.items():
        one = line("", name)
        if one is not None:
            plots.append(Plot(title, "steps", "", [one]))
    return plots


def strips(film: Film) -> list[FilmStrip]:
    """Each episode up to its end."""
    found = []
    for number_, (images_TxHxWxC, text_L) in enumerate(zip(film.image_ExTxHxWxC, film.text_ExL, strict=True)):
        steps, success = int(film.played.steps_E[number_]), bool(film.played.success_E[number_])
        shortest = int(film.played.shortest_E[number_])
        outcome = f"{'done' if success else 'not done'} in {steps} steps, the oracle's {shortest}"
        found.append(FilmStrip(decode(text_L), outcome, success, images_TxHxWxC[: steps + 1]))
    return found


def _notes(config: AssistantConfig) -> list[str]:
    notes = [
        "Intervals resample rooms. The frame is the agent, white with empty hands and else in the colour of "
        "what it carries. Held-out combinations are neither named nor shown in training.",
        "Picture black and instructions of other rooms show what the policy owes to each: what does as well "
        "without them does not use them.",
    ]
    if config.reading.steps:
        notes.append(
            f"Before, the encoders learned in {config.reading.steps} steps to guess words that instructions "
            "leave out, from rooms and the other words; nobody judged anything there."
        )
    if config.reward == "true" and config.shaping:
        notes.append(
            f"The reward also paid {config.shaping:g} for each step by which the oracle's way got shorter, "
            "which changes how fast is learned, not what is best."
        )
    if config.reward == "learned":
        notes.append(
            "The reward was learned from comparisons by a simulated rater, who looks at the true return, "
            f"with {config.shaping:g} for each step by which the oracle's way got shorter, and says the "
            f"opposite in {config.teaching.rater_noise:.0%} of the cases. No person judged anything."
        )
    return notes
