"""Judgements of the user's own: reading them as the command line says, and showing what is in them."""

from collections.abc import Mapping
from pathlib import Path

from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.readers import read_set
from mmrlhf_jax.data.survey import describe_survey, survey
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.source import resolve_dataset
from mmrlhf_jax.training.config import RewardStageConfig

SURVEY_SIZE = 32  # pixels of the pictures that are read for a survey alone


def read_own(path: Path, config: RewardStageConfig, image_size: int) -> PreferenceSet:
    """The judgements at `path`: a file in the project's own columns, or with `config.set` a public set."""
    if config.set is None:
        return read_preferences(path, image_size, on_bad=config.on_bad)
    judged = read_set(
        config.set,
        resolve_dataset(path),
        image_size,
        on_bad=config.on_bad,
        image_root=config.image_root,
        allow_urls=config.allow_urls,
    )
    if not isinstance(judged, PreferenceSet):
        raise UserError(f"{path}: the set {config.set} has ratings; a reward model learns from comparisons")
    return judged


def print_surveys(parts: Mapping[str, PreferenceSet]) -> None:
    """Prints what there is to know of each part of the judgements."""
    for part, judged in parts.items():
        print(f"{part}\n{describe_survey(survey(judged), '  ')}")
