"""Trained networks of a run as folders of their own, each with a model card."""

from pathlib import Path
from typing import Any, NamedTuple

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import as_plain, read_json, write_text
from mmrlhf_jax.hub.config import read_config, write_config
from mmrlhf_jax.hub.folder import load_architecture, save_model
from mmrlhf_jax.modules import Definition, Params, count_params
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.pretrained import save_pretrained
from mmrlhf_jax.reward.define import load_reward_model
from mmrlhf_jax.runtime.folder import read_result
from mmrlhf_jax.runtime.platform import versions
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.config.export import ExportConfig, Part
from mmrlhf_jax.training.contrastive import load_clip, load_language_model

_STAGES: dict[Part, str] = {"clip": "pretrain", "decoder": "pretrain", "reward": "reward"}
_WHAT: dict[Part, str] = {
    "clip": "A CLIP, trained from nothing on pictures of emoji and their names.",
    "decoder": "A language model of the Llama family, trained from nothing on the names of emoji.",
    "policy": "A captioner: a picture tower and a decoder that writes what a picture of an emoji shows.",
    "reward": "A reward model: how well a caption fits a picture of an emoji, as the raters would judge.",
}
_LOAD: dict[Part, str] = {
    "clip": "from mmrlhf_jax.hub.folder import load_architecture, load_params",
    "decoder": "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "policy": "from mmrlhf_jax.policy.captioner import Captioner",
    "reward": "from mmrlhf_jax.reward.define import load_reward_model",
}


class Network(NamedTuple):
    """A trained network, with what its folder needs."""

    architecture: Any
    definition: Definition[Any]
    params: Params
    tokenizer: CaptionTokenizer


def run(config: ExportConfig) -> dict[str, str]:
    """Writes OUT/PART for each part.

    Returns:
      By part, why it is not in transformers' layout; "" where it is.

    Raises:
      UserError: a stage is not done, a file is damaged, or a folder is there already.
    """
    for part in config.part:
        target = config.out / part
        if target.exists():
            raise UserError(f"{target} is there already: choose another --out, or delete it")
    networks = {part: load(config, part) for part in config.part}  # all, before anything is written
    reasons: dict[str, str] = {}
    for part, network in networks.items():
        target = config.out / part
        if config.dry_run:
            print(f"export: {part}, {count_params(network.params):,} parameters, to {target}")
            continue
        reasons[part] = write(network, part, target)
        write_text(target / "README.md", card(config, part, network, reasons[part]))
        layout = "its own layout: " + reasons[part] if reasons[part] else "transformers' layout"
        print(f"{part}: {target}, in {layout}")
    return reasons


def load(config: ExportConfig, part: Part) -> Network:
    """The network `part` of the run."""
    stage = StageConfig(run=config.run, seed=config.seed)
    folder = config.folder(_STAGES.get(part, config.stage))
    read_result(folder)  # tells where the stage is not done
    match part:
        case "clip":
            return Network(*load_clip(stage))
        case "decoder":
            return Network(*load_language_model(stage))
        case "policy":
            captioner = Captioner.load(folder / "model")
            return Network(captioner.architecture, captioner.policy, captioner.params, captioner.tokenizer)
        case "reward":
            model, params = load_reward_model(folder / "model")
            architecture = load_architecture(folder / "model", RewardConfig)
            return Network(architecture, model, params, CaptionTokenizer.load(folder / "model"))


def write(network: Network, part: Part, target: Path) -> str:
    """Weights, config and tokenizer in transformers' layout, or else in this package's own.

    Returns:
      Why transformers' could not be had; "" where it could.
    """
    reason = ""
    if part == "reward":
        reason = "transformers has no reward model of a picture and a text"
    else:
        try:
            save_pretrained(network.definition.bind(network.params), target)
        except UserError as error:
            reason = str(error)
    if reason:
        save_model(target, network.architecture, network.params)
    else:
        special = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID}
        write_config(target, read_config(target) | special)
    network.tokenizer.save(target)
    return reason


def card(config: ExportConfig, part: Part, network: Network, reason: str) -> str:
    """The model card: what it is, how to load it, on what it was trained, its numbers, its versions."""
    stage = _STAGES.get(part, config.stage)
    result = {name: value for name, value in read_result(config.folder(stage)).items() if name != "survey"}
    tables = {f"Result of the stage {stage}": result}
    of_ppo = stage in (*_STAGES.values(), "sft", "ppo")
    summary = config.run / ("summary.json" if of_ppo else f"summary_{stage}.json")
    if summary.is_file():
        tables[f"Evaluation of the whole run ({summary.name})"] = read_json(summary)
    layout = f"This package's own, because {reason}." if reason else "That of transformers, which loads it."
    lines = [
        "---",
        "library_name: mmrlhf-jax" if reason else "library_name: transformers",
        "license: apache-2.0",
        "---",
        "",
        f"# {part} of {config.run.name}, seed {config.seed}",
        "",
        f"{_WHAT[part]} {count_params(network.params):,} parameters, float32.",
        "",
        f"- Layout: {layout}",
        f"- To load it: `{_LOAD[part]}`",
        "- Data: pictures of the Noto Color Emoji font (OFL-1.1), 64x64, with names of Unicode CLDR. "
        "Judgements are those of **simulated** raters unless the run was given others.",
        "- Limits: it knows pictures of emoji and nothing else.",
        f"- Trained with: {_versions(config.folder(stage) / 'versions.json')}",
    ]
    for title, numbers in tables.items():
        lines += ["", f"## {title}", "", "| Measure | Value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _numbers(as_plain(numbers))]
    return "\n".join(lines) + "\n"


def _versions(file: Path) -> str:
    """The versions that the stage ran on last."""
    if not file.is_file():
        return "not known"
    written = read_json(file)
    wanted = [name for name in (*versions(), "git_revision") if written.get(name) is not None]
    return ", ".join(f"{name} {written[name]}" for name in wanted)


def _numbers(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Single numbers by dotted name; lists and texts are left out."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", f"{value:.4g}"))
    return found
