"""What each stage is asked to do. Free of jax, so that command lines are parsed in no time."""

from mmrlhf_jax.training.config.augment import AugmentConfig, JudgementAugmentConfig
from mmrlhf_jax.training.config.evaluate import EvaluateConfig
from mmrlhf_jax.training.config.feedback import AnnotateConfig, CollectConfig
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.config.policy import DPOConfig, PPOConfig, RewardWeights, TermsConfig
from mmrlhf_jax.training.config.reward import LearningCurveConfig, RewardStageConfig
from mmrlhf_jax.training.config.stage import OnBad, SplitConfig, StageConfig
from mmrlhf_jax.training.config.supervised import PretrainConfig, SFTConfig

__all__ = [
    "AnnotateConfig",
    "AugmentConfig",
    "CollectConfig",
    "DPOConfig",
    "EvaluateConfig",
    "JudgementAugmentConfig",
    "LearningCurveConfig",
    "LossConfig",
    "OnBad",
    "PPOConfig",
    "PretrainConfig",
    "RewardStageConfig",
    "RewardWeights",
    "SFTConfig",
    "SplitConfig",
    "StageConfig",
    "TermsConfig",
]
