"""Configs of the stages: impossible numbers are refused in a sentence, presets can be built."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config import (
    CollectConfig,
    DPOConfig,
    EvaluateConfig,
    PPOConfig,
    PretrainConfig,
    RewardStageConfig,
    SFTConfig,
    StageConfig,
)
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.presets import DPO_PRESETS, PRESETS

STAGES = (PretrainConfig, SFTConfig, CollectConfig, RewardStageConfig, PPOConfig, DPOConfig, EvaluateConfig)
# Fields that mean something at zero: no warm-up, no decay, no shift, a term that does not count ...
MAY_BE_ZERO = {
    "seed", "shift", "clip_rate", "warmup_steps", "weight_decay", "b1", "b2", "overlap", "label_smoothing",
    "center", "zoom", "neighbours", "margin", "prior", "least_propensity", "least_dwell", "crop", "flip",
    "colour", "cutout", "mix", "word_dropout", "synonyms", "variance_weight", "picture_dropout",
    "fluency", "image_accuracy", "preference", "value_weight", "entropy_weight", "gamma", "lam",
    "missing_end_penalty", "kl_coef", "top_k", "min_length", "watch_every",
    "reference_accuracy", "considerate_wording", "length", "repetition", "text", "feedback", "held_out",
}  # fmt: skip
MAY_BE_NONE = {"max_logit_scale"}  # no cap


def numbers(config: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Path and value of every number in a config, nested ones included."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, (*prefix, field.name))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*prefix, field.name), value


def changed(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """The config with one field, named by its path, changed."""
    name, *rest = path
    new = changed(getattr(config, name), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{name: new})


CASES = [(stage, path) for stage in STAGES for path, _ in numbers(stage())]
IDS = [f"{stage.__name__}.{'.'.join(path)}" for stage, path in CASES]


def refused(stage: type[StageConfig], path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(UserError) as error:
        changed(stage(), path, value)
    lines = str(error.value).splitlines()
    assert len(lines) <= 2 and path[-1].replace("_", "-") in str(error.value).replace("_", "-")


def test_the_cases_are_complete():
    assert len(CASES) > 100
    paths = set(CASES)
    assert (PPOConfig, ("optimizer", "learning_rate")) in paths
    assert (PretrainConfig, ("clip", "vision", "transformer", "norm_eps")) in paths
    assert {path[-1] for _, path in CASES} >= MAY_BE_ZERO


@pytest.mark.parametrize(("stage", "path"), CASES, ids=IDS)
def test_impossible_numbers_are_refused(stage, path):
    for value in (math.nan, math.inf, -math.inf, -1, -0.5, True, "3"):
        refused(stage, path, value)
    if path[-1] in MAY_BE_NONE:
        changed(stage(), path, None)
    else:
        refused(stage, path, None)
    if path[-1] in MAY_BE_ZERO:
        changed(stage(), path, 0)
    else:
        refused(stage, path, 0)


@pytest.mark.parametrize(("stage", "path"), CASES, ids=IDS)
def test_whole_numbers_are_whole(stage, path):
    if isinstance(dict(numbers(stage()))[path], int):
        refused(stage, path, 2.5)


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        (PPOConfig, ("gamma",)),
        (PPOConfig, ("lam",)),
        (CollectConfig, ("overlap",)),
        (RewardStageConfig, ("loss", "label_smoothing")),
        (RewardStageConfig, ("loss", "clicks", "least_propensity")),
        (PPOConfig, ("optimizer", "b1")),
        (SFTConfig, ("optimizer", "b2")),
    ],
)
def test_shares_above_one_are_refused(stage, path):
    refused(stage, path, 1.01)


def test_a_rollout_must_divide_into_minibatches():
    with pytest.raises(UserError, match="minibatches"):
        PPOConfig(batch=10, minibatches=4)


def test_a_horizon_below_the_batch_is_refused():
    # 1 - 0.2 x batch / horizon would be negative, and with it the weight of the KL penalty
    with pytest.raises(UserError, match="kl-horizon"):
        PPOConfig(batch=256, kl_horizon=50.0)


def test_seeds_to_evaluate_are_checked():
    with pytest.raises(UserError, match="seeds"):
        EvaluateConfig(seeds=(0, -1))
    with pytest.raises(UserError, match="seeds is empty"):
        EvaluateConfig(seeds=())


def test_an_evaluation_of_more_seeds_does_not_meet_the_earlier_ones():
    folders = [
        EvaluateConfig(seeds=seeds, policy=policy).folder("evaluate").name
        for policy in ("ppo", "dpo")
        for seeds in ((0,), (0, 1, 2), (0, 12))
    ]
    assert folders[0] == "evaluate" and len(set(folders)) == 6


def test_smoothing_that_turns_labels_round_is_refused():
    for config in (LossConfig, DPOConfig):
        assert config(label_smoothing=0.49).label_smoothing == 0.49
        for wrong in (0.5, 0.9):
            with pytest.raises(UserError, match="label_smoothing"):
                config(label_smoothing=wrong)
    with pytest.raises(UserError, match="no place in the loss 'ipo'"):
        DPOConfig(loss="ipo", label_smoothing=0.1)


def test_a_tie_parameter_fits_its_model():
    assert LossConfig(ties="davidson", tie_parameter=-1.0).tie_parameter == -1.0
    assert LossConfig(ties="rao_kupper", tie_parameter=0.1).tie_parameter == 0.1
    for ties, wrong in (("none", 0.5), ("rao_kupper", 0.0), ("rao_kupper", -1.0), ("davidson", math.nan)):
        with pytest.raises(UserError, match="tie_parameter"):
            LossConfig(ties=ties, tie_parameter=wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_their_parts_fit(name):
    stages = PRESETS[name]
    names = [stage for stage, _ in stages.items()]
    assert names == ["pretrain", "sft", "collect", "reward", "ppo", "evaluate"]
    for _, config in stages.items():
        assert dataclasses.replace(config) == config  # passes its own checks
    shared = stages.shared(seed=7, max_pictures=11)
    assert {config.seed for _, config in shared.items()} == {7}
    assert all(
        dataclasses.replace(new, seed=old.seed, max_pictures=old.max_pictures) == old
        for (_, new), (_, old) in zip(shared.items(), stages.items(), strict=True)
    )


def test_dpo_has_the_same_presets():
    assert set(DPO_PRESETS) == set(PRESETS)


def test_folders_of_a_run_by_seed_and_stage(tmp_path):
    assert PPOConfig(run=tmp_path, seed=3).folder("sft") == tmp_path / "seed_3" / "sft"
