"""The chatbot's evaluation: RLHF with the picture, RLHF without it and the SFT policy, on held-out cases."""

import json
import time
from pathlib import Path
from typing import Any

from mmrlhf_jax.data.tone import ToneSet, best_guess_by_words, load_tone
from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.feedback.reply_rubric import ReplyRubric
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.runtime.folder import StageFolder, read_result
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.runtime.platform import device_name, git_revision, peak_rss_mb, versions
from mmrlhf_jax.training.chatbot.config import Arm, ChatbotConfig, ChatEvaluateConfig
from mmrlhf_jax.training.chatbot.judge import Answers, answer, gain, numbers
from mmrlhf_jax.training.chatbot.report import write_chatbot_report
from mmrlhf_jax.training.chatbot.stages import HELD_OUT
from mmrlhf_jax.training.config.stage import arm

DECODINGS = {"sampled": 1.0, "greedy": 0.0}  # by temperature
WITH, WITHOUT = "RLHF with picture", "RLHF without picture"
SFT, SFT_WITHOUT = "SFT", "SFT without picture"

Said = dict[str, dict[str, dict[str, Answers]]]  # by part, decoding and policy


def load_policies(config: ChatEvaluateConfig, algorithm: str, arms: tuple[Arm, ...]) -> dict[str, Captioner]:
    """The policies to compare, by the names that the report gives them."""
    sft = Captioner.load(config.folder("sft") / "model")
    policies = {SFT: sft}
    if "with_picture" in arms:
        policies[WITH] = Captioner.load(config.folder(algorithm) / "model")
    if "without_picture" in arms:
        policies[SFT_WITHOUT] = sft.without_picture()
        policies[WITHOUT] = Captioner.load(config.folder(arm(algorithm, True)) / "model")
    return policies


def answer_all(
    config: ChatEvaluateConfig, policies: dict[str, Captioner], parts: dict[str, ToneSet]
) -> tuple[Said, dict[str, dict[str, Answers]]]:
    """What every policy answers on every part; and, of those that look, sampled with the faces shuffled."""
    rubric = ReplyRubric.of_templates()
    said: Said = {}
    shuffled: dict[str, dict[str, Answers]] = {}
    for part, cases in parts.items():
        said[part] = {
            decoding: {
                name: answer(
                    policy,
                    cases,
                    rubric,
                    temperature=temperature,
                    samples=config.samples if temperature else 1,
                    seed=config.seed,
                )
                for name, policy in policies.items()
            }
            for decoding, temperature in DECODINGS.items()
        }
        shuffled[part] = {
            name: answer(
                policy,
                cases,
                rubric,
                temperature=DECODINGS["sampled"],
                samples=config.samples,
                seed=config.seed,
                shuffle_faces=True,
            )
            for name, policy in policies.items()
            if policy.architecture.picture
        }
    return said, shuffled


def compare(said: Said, shuffled: dict[str, dict[str, Answers]], parts: dict[str, ToneSet]) -> dict[str, Any]:
    """All numbers of the comparison, by part."""
    pairs = ((WITH, WITHOUT), (WITH, SFT), (WITHOUT, SFT_WITHOUT), (WITHOUT, SFT))
    found: dict[str, Any] = {}
    for part, cases in parts.items():
        found[part] = {
            decoding: {
                "policies": {name: numbers(answers, cases) for name, answers in by_policy.items()},
                "gains": {
                    f"{one} over {other}": gain(by_policy[one], by_policy[other], cases)
                    for one, other in pairs
                    if one in by_policy and other in by_policy
                },
            }
            for decoding, by_policy in said[part].items()
        }
        found[part]["face_shuffled"] = {
            name: {
                "gold": numbers(answers, cases)["gold"],
                "tone": numbers(answers, cases)["aspects"]["tone"],
                "gain_by_true_face": gain(said[part]["sampled"][name], answers, cases),
            }
            for name, answers in shuffled[part].items()
        }
    return found


def reward_numbers(config: ChatEvaluateConfig, arms: tuple[Arm, ...]) -> dict[str, Any]:
    """How each arm's reward model agrees with the rubric on held-out pairs, and its attribution."""
    found: dict[str, Any] = {}
    for name in arms:
        result = read_result(config.folder(arm("reward", name == "without_picture")))
        found[name] = {
            "accuracy_rubric": result["rubric"]["accuracy"],
            "accuracy_raters": result["held_out"]["accuracy"],
            "attribution": result["rubric"]["attribution"],
        }
    return found


@on_own_mesh
def run(config: ChatEvaluateConfig, chatbot: ChatbotConfig) -> dict[str, Any]:
    """Writes RUN/summary.json and RUN/report.html.

    Returns:
      The summary.
    """
    parts = {part: load_tone(part, cases=config.cases, seed=config.seed + 1) for part in HELD_OUT}
    if config.dry_run:
        print(f"evaluate: {config.cases} cases of each held-out part x {config.samples} answers a policy")
        return {}
    summary_path = config.run / "summary.json"
    start = time.monotonic()
    with StageFolder.open(config.folder("evaluate"), config, resume=config.resume) as folder:
        if folder.is_done:
            return json.loads(summary_path.read_text(encoding="utf-8"))
        policies = load_policies(config, chatbot.ppo.algorithm, chatbot.arms)
        said, shuffled = answer_all(config, policies, parts)
        results = {stage: read_result(config.folder(stage)) for stage in stage_names(chatbot)}
        seconds = {stage: result["wall_seconds"] for stage, result in results.items()}
        seconds["evaluate"] = time.monotonic() - start
        summary = {
            "parts": compare(said, shuffled, parts),
            "reward_models": reward_numbers(config, chatbot.arms),
            "best_guess_of_the_feeling_by_words": best_guess_by_words(),
            "raters_agreement": results["collect"]["preferences"]["agreement"],
            "gold_of_lessons": results["sft"]["gold_of_lessons"],
            "kl_max": {stage: result["kl_max"] for stage, result in results.items() if "kl_max" in result},
            "wall_seconds": seconds | {"total": sum(seconds.values())},
            "peak_rss_mb": max(peak_rss_mb(), *(result["peak_rss_mb"] for result in results.values())),
            "seed": config.seed,
            "device": device_name(),
            "versions": versions() | {"git_revision": git_revision()},
            "gold_rubric": "noiseless rubric of the simulated raters",
        }
        write_summary(summary_path, summary)
        write_chatbot_report(config, chatbot, summary, said, parts)
        folder.finish({"summary": summary_path.name, "report": "report.html"})
    return summary


def stage_names(chatbot: ChatbotConfig) -> list[str]:
    """The folders of the trained stages, in the order in which they run."""
    blind = [name == "without_picture" for name in chatbot.arms]
    return [
        "sft",
        "collect",
        *(arm("reward", without) for without in blind),
        *(arm(chatbot.ppo.algorithm, without) for without in blind),
    ]


def print_summary(summary: dict[str, Any], run: Path) -> None:
    """The main numbers, a line each."""
    for part, found in summary["parts"].items():
        for name, policy in found["sampled"]["policies"].items():
            print(f"{part}: gold {policy['gold']:.3f}, tone {policy['aspects']['tone']:.3f}  {name}")
        for name, gained in found["sampled"]["gains"].items():
            low, high = gained["all"]["ci95"]
            print(f"{part}: gain {gained['all']['mean']:+.3f} [{low:.3f}, {high:.3f}]  {name}")
    print(f"{summary['wall_seconds']['total']:.0f} s. Raters are simulated. report: {run / 'report.html'}")
