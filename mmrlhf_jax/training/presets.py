"""The sizes of a whole run, by name."""

import dataclasses
from pathlib import Path

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.training.config import (
    CollectConfig,
    DPOConfig,
    EvaluateConfig,
    OnBad,
    PPOConfig,
    PretrainConfig,
    RewardStageConfig,
    SFTConfig,
    SplitConfig,
    StageConfig,
)


@dataclasses.dataclass(frozen=True)
class Stages:
    """The config of every stage, in the order in which they run."""

    pretrain: PretrainConfig
    sft: SFTConfig
    collect: CollectConfig
    reward: RewardStageConfig
    ppo: PPOConfig
    evaluate: EvaluateConfig

    def shared(self, **changes: object) -> "Stages":
        """The same stages with fields of `StageConfig` changed in all of them."""
        stages = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Stages(**{name: dataclasses.replace(stage, **changes) for name, stage in stages.items()})

    def on_pictures(
        self, pictures: Path | None, image_size: int | None, split: SplitConfig, on_bad: OnBad
    ) -> "Stages":
        """The same stages on pictures of one's own; None leaves what the stages say."""
        stages = self if pictures is None else self.shared(pictures=pictures, on_bad=on_bad)
        pretrain = stages.pretrain
        if image_size is not None:
            pretrain = dataclasses.replace(pretrain, image_size=image_size)
        if split != SplitConfig():
            pretrain = dataclasses.replace(pretrain, split=split)
        return dataclasses.replace(stages, pretrain=pretrain)

    def items(self) -> list[tuple[str, StageConfig]]:
        """(name, config) in the order in which the stages run."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


def _smoke() -> Stages:
    """Everything once, too small to learn: proves that the parts fit, in under a minute."""
    tower = TransformerConfig(width=32, layers=1, heads=2, mlp_width=64)
    clip = CLIPConfig(VisionConfig(transformer=tower), TextConfig(transformer=tower), projection_width=32)
    decoder = DecoderConfig(width=32, layers=1, heads=2, kv_heads=2, mlp_width=64)
    return Stages(
        PretrainConfig(clip=clip, language_model=decoder, steps=6, batch=16, log_every=2),
        SFTConfig(steps=6, batch=16, eval_every=3, log_every=2),
        CollectConfig(pairs_per_picture=2, held_out_pairs=2),
        RewardStageConfig(fusion_width=32, steps=6, batch=16, log_every=2),
        PPOConfig(steps=3, batch=16, log_every=1),
        EvaluateConfig(samples=1, gallery=6),
    ).shared(max_pictures=64)


def _quickstart() -> Stages:
    """Learns, in ten to fifteen minutes on two CPU cores, depending on how busy they are."""
    text = TextConfig(transformer=TransformerConfig(layers=2))
    return Stages(
        PretrainConfig(clip=CLIPConfig(text=text), language_model=DecoderConfig(layers=3), steps=340),
        SFTConfig(steps=360),
        CollectConfig(),
        RewardStageConfig(),
        PPOConfig(steps=60, log_every=1),
        EvaluateConfig(samples=2),
    )


# "full" has the sizes of "quickstart"; the pipeline runs it over three seeds.
PRESETS = {"quickstart": _quickstart(), "smoke": _smoke(), "full": _quickstart()}

# DPO stands beside the pipeline: what it needs are the stages sft and collect.
DPO_PRESETS = {
    "quickstart": DPOConfig(),
    "smoke": DPOConfig(steps=6, batch=16, log_every=2, max_pictures=64),
    "full": DPOConfig(),
}
