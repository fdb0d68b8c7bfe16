"""What the benchmark shows: statements, the numbers that they rest on, and whether they hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmrlhf_jax.evaluate.paired import holm, wilcoxon_signed_rank

Trials = dict[str, dict[str, dict[str, Any]]]  # by task, by method: what one trial's file holds
Answers = dict[str, dict[str, float] | None]

ADDITIVE = ("concat_linear", "late")  # what only the modalities together tell is out of their reach
INTERACTING = ("attention", "gated", "low_rank", "tensor")
MOVING = ("weighted_sum", "attention")  # weights that depend on the input
FIXED = ("weighted_sum_fixed", "weighted_sum_learned")
UNIMODAL = ("image_only", "text_only")  # they have nothing to weigh or to share
LEARNT = 0.05  # a method has learnt a task when it comes so near to the best possible accuracy
LEVEL = 0.05  # of the tests


def conclude(trials: Trials, answers: Answers) -> list[dict[str, Any]]:
    """What the benchmark shows, each with the numbers it rests on and whether it holds.

    A statement whose tasks or methods were not run is left out.
    """
    found = [_synergy(trials), _conflict(trials), _missing(trials), _shapley(trials, answers)]
    return [statement for statements in found for statement in statements]


def _synergy(trials: Trials) -> list[dict[str, Any]]:
    found = []
    for methods, claim in (
        (ADDITIVE, "synergy: methods that only add up stay near chance (at most 0.60)"),
        (INTERACTING, "synergy: methods that let modalities interact pass 0.95"),
    ):
        means = {
            method: mean_accuracy(trial) for method, trial in _chosen(trials, "synergy", methods).items()
        }
        if means:
            holds = max(means.values()) <= 0.6 if methods is ADDITIVE else min(means.values()) > 0.95
            found.append(_statement(claim, _listed(means), holds))
    return found


def _conflict(trials: Trials) -> list[dict[str, Any]]:
    here = _chosen(trials, "conflict", ("weighted_sum", *FIXED))
    found = []
    if "weighted_sum" in here and len(here) > 1:
        moving = here.pop("weighted_sum")
        p_values = holm([_p_value(moving, fixed) for fixed in here.values()])
        means = {method: mean_accuracy(fixed) for method, fixed in here.items()}
        better = all(mean_accuracy(moving) > mean for mean in means.values())
        found.append(
            _statement(
                "conflict: weights that depend on the input beat fixed ones",
                f"weighted_sum {mean_accuracy(moving):.3f}; {_listed(means)}; p at most {max(p_values):.4f}",
                better and max(p_values) < LEVEL,
            )
        )
    follows = {
        method: float(np.mean(trial["weights"]["honesty_correlation"]))
        for method, trial in _chosen(trials, "conflict", MOVING).items()
    }
    if follows:
        found.append(
            _statement(
                "conflict: they follow the true reliability, correlation above 0.8",
                _listed(follows),
                min(follows.values()) > 0.8,
            )
        )
    return found


def _missing(trials: Trials) -> list[dict[str, Any]]:
    losses = {
        method: accuracy_lost(trial)
        for method, trial in trials.get("missing", {}).items()
        if method not in UNIMODAL
    }
    if not losses:
        return []
    ratio = {method: told / untold for method, (told, untold) in losses.items() if untold > 0}
    worst = max(ratio, key=lambda method: ratio[method], default=None)
    return [
        _statement(
            "missing: methods that are told lose less than half of what those lose that are not",
            "no loss without masks" if worst is None else f"at most {ratio[worst]:.2f} of it ({worst})",
            worst is not None and len(ratio) == len(losses) and ratio[worst] < 0.5,
        )
    ]


def _shapley(trials: Trials, answers: Answers) -> list[dict[str, Any]]:
    found = []
    for task, row in trials.items():
        answer = answers.get(task)
        if answer is None or task == "emoji":  # how well pictures can be told apart is not known
            continue
        off = {
            method: abs(trial["attribution"]["picture_share"] - answer["picture_share"])
            for method, trial in row.items()
            if method not in UNIMODAL
            and has_learnt(task, trial, answer)
            and trial["attribution"]["picture_share"] is not None
        }
        if off:
            worst = max(off, key=lambda method: off[method])
            found.append(
                _statement(
                    f"{task}: Shapley shares match the known answer within 0.1",
                    f"{len(off)} methods that learnt it; worst {worst}, off by {off[worst]:.3f}",
                    off[worst] <= 0.1,
                )
            )
    return found


def has_learnt(task: str, trial: dict[str, Any], answer: dict[str, float]) -> bool:
    """Whether a method is near the best rule, so that its shares must be that rule's.

    Under the shift the best rule for training is the one that the text misleads.
    """
    goal = answer["trained"] if task == "shift" else answer["bayes"]
    return abs(mean_accuracy(trial) - goal) <= LEARNT


def compare_to_best(row: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The method with the highest mean accuracy on a task ("best"), and of the others "p_values".

    A p-value is that of a method's being no worse than the best, by Wilcoxon's signed-rank test over the
    seeds, adjusted after Holm for the number of methods.
    """
    best = max(row, key=lambda method: mean_accuracy(row[method]))
    others = [method for method in row if method != best]
    p_values = holm([_p_value(row[best], row[method]) for method in others])
    return {"best": best, "p_values": dict(zip(others, p_values, strict=True))}


def accuracy_lost(trial: dict[str, Any]) -> tuple[float, float]:
    """Accuracy lost to missing modalities, with masks and without."""
    unmasked = trial["unmasked"]
    return (
        mean_accuracy(trial, "accuracy_complete") - mean_accuracy(trial),
        mean_accuracy(unmasked, "accuracy_complete") - mean_accuracy(unmasked),
    )


def mean_accuracy(trial: dict[str, Any], name: str = "accuracy") -> float:
    """The mean over the seeds of a method's accuracy on one task, or of another number called `name`."""
    return float(np.mean(trial[name]))


def _p_value(first: dict[str, Any], second: dict[str, Any]) -> float:
    return wilcoxon_signed_rank(np.asarray(first["accuracy"]) - np.asarray(second["accuracy"]))


def _statement(claim: str, numbers: str, holds: bool) -> dict[str, Any]:
    return {"claim": claim, "numbers": numbers, "holds": bool(holds)}


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _chosen(trials: Trials, task: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {method: trials[task][method] for method in methods if method in trials.get(task, {})}
