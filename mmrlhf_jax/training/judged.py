"""Judgements of the user's own: reading them as the command line says, and showing what is in them."""

from collections.abc import Mapping
from pathlib import Path

from mmrlhf_jax.data.judgements import JudgementSet, read_judgements
from mmrlhf_jax.data.readers import read_set
from mmrlhf_jax.data.survey import describe_survey, survey
from mmrlhf_jax.hub.source import resolve_dataset
from mmrlhf_jax.training.config import RewardStageConfig

SURVEY_SIZE = 32  # pixels of the pictures that are read for a survey alone


def read_own(path: Path, config: RewardStageConfig, image_size: int) -> JudgementSet:
    """The judgements at `path`: a file in the project's own columns, or with `config.set` a public set.

    Raises:
      UserError: nothing there that can be read as such, or a bad record that is not to be skipped.
    """
    if config.set is None:
        return read_judgements(path, image_size, on_bad=config.on_bad)
    return read_set(
        config.set,
        resolve_dataset(path),
        image_size,
        on_bad=config.on_bad,
        image_root=config.image_root,
        allow_urls=config.allow_urls,
    )


def print_surveys(parts: Mapping[str, JudgementSet]) -> None:
    """Prints what there is to know of each part of the judgements."""
    for part, judged in parts.items():
        print(f"{part}\n{describe_survey(survey(judged), '  ')}")
