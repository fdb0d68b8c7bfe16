"""What the training of a reward model is about: its backbone and its judgements, loaded."""

from typing import Any, NamedTuple

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.judgements import JudgementSet, split_by_picture
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.survey import survey
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.backbone import Backbone, fresh_towers, load_backbone
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.contrastive import Pretrained, load_clip, load_language_model
from mmrlhf_jax.training.judged import read_own
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.objectives import Objective, objective_of
from mmrlhf_jax.training.picture_source import picture_source

HELD_OUT_SHARE = 0.1  # of the pictures of a file that comes without a held-out one


def load_preferences(config: RewardStageConfig, image_size: int) -> dict[str, JudgementSet]:
    """The judgements to train on ("train") and to measure on ("held_out").

    Those of `collect` come with the noiseless rubric's comparisons ("rubric"). A file of the user's own is
    split by picture, so that no picture is on both sides; a reward model that learns from other things than
    comparisons is measured on those that `collect` held out too ("raters", "rubric"), where they are there.
    """
    folder = config.folder("collect")
    if config.preferences is None:
        files = {"train": "preferences", "held_out": "held_out", "rubric": "held_out_rubric"}
        return {
            part: read_preferences(folder / f"{name}.parquet", image_size) for part, name in files.items()
        }
    judged = read_own(config.preferences, config, image_size)
    train, held_out = split_by_picture(judged, HELD_OUT_SHARE)
    if not len(train) or not len(held_out):
        raise UserError(
            f"{config.preferences} has {len(judged.images_NxHxWxC)} picture(s): it needs at least two that "
            "no comparison links, to hold some out"
        )
    parts: dict[str, JudgementSet] = {"train": judged.take(train), "held_out": judged.take(held_out)}
    if not isinstance(judged, PreferenceSet):
        pairs = {"raters": folder / "held_out.parquet", "rubric": folder / "held_out_rubric.parquet"}
        parts |= {part: read_preferences(file, image_size) for part, file in pairs.items() if file.exists()}
    return parts


class Setting(NamedTuple):
    """What the training is about.

    Attributes:
      objectives: by part of the judgements; they differ where the parts are judgements of different kinds.
      frozen: parameters of the model's FROZEN_PARTS.
      judgements: "train", and those to measure on.
      surveys: what there is to know of each part of them, as `data.survey.survey` gives it.
    """

    architecture: RewardConfig
    model: Definition[RewardModel]
    objectives: dict[str, Objective[Any]]
    backbone: Backbone
    frozen: Params
    judgements: dict[str, Judgements]
    surveys: dict[str, Any]


def load_setting(config: RewardStageConfig) -> Setting:
    """Loads backbone and judgements, and defines the reward model."""
    if config.augment.synonyms and picture_source(config).path is not None:
        raise UserError(
            "augment.synonyms takes its words from the keywords of the bundled pictures, which this run was "
            "not trained on: give --augment.synonyms 0"
        )
    backbone, captioner, language_model = load_parts(config)
    architecture = RewardConfig(
        clip=backbone.architecture if backbone.name == "clip" else None,
        siglip=backbone.architecture if backbone.name == "siglip" else None,
        policy=backbone.architecture if backbone.name == "policy" else None,
        fusion=config.fusion,
        fusion_width=config.fusion_width,
        captioner=None if captioner is None else captioner.architecture,
        language_model=None if language_model is None else language_model.architecture,
        ensemble=config.ensemble,
        text_pad_id=backbone.tokenizer.pad_id,
        picture=not config.without_picture,
    )
    judged = load_preferences(config, backbone.image_size)
    objective = objective_of(judged["train"], config.loss)
    objectives = {
        part: objective if isinstance(rows, type(judged["train"])) else objective_of(rows, LossConfig())
        for part, rows in judged.items()
    }
    judgements = {
        part: objectives[part].to_device(rows, backbone.tokenizer, backbone.max_length, learn=part == "train")
        for part, rows in judged.items()
    }
    frozen = {"captioner": captioner, "language_model": language_model}
    return Setting(
        architecture,
        define_reward_model(architecture),
        objectives,
        backbone,
        {name: part.params for name, part in frozen.items() if part is not None},
        judgements,
        {part: survey(rows) for part, rows in judged.items()},
    )


def load_parts(
    config: RewardStageConfig,
) -> tuple[Backbone, Captioner | None, Pretrained[Decoder] | None]:
    """The backbone, and the captioner and language model beside it.

    Only the run's own CLIP has those beside it: they read its tokens. "towers" are the policy's picture tower
    and a text tower that starts from nothing.
    """
    if config.backbone == "clip":
        clip, _, params, tokenizer = load_clip(config)
        backbone = Backbone("clip", clip, params, tokenizer, clip.vision.image_size, clip.text.max_length)
        captioner = Captioner.load(config.folder("sft") / "model")
        return backbone, captioner, load_language_model(config)
    if config.backbone == "policy":
        policy = Captioner.load(config.folder("sft") / "model")
        sizes = policy.architecture.vision.image_size, policy.architecture.text_length
        return Backbone("policy", policy.architecture, policy.params, policy.tokenizer, *sizes), None, None
    if config.backbone == "towers":
        return fresh_towers(Captioner.load(config.folder("sft") / "model"), config.seed), None, None
    return load_backbone(config.backbone), None, None
